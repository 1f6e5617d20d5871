"""The trained QFormer alone: content -> aligned item vectors, of old and new items alike.

Shape legend: N items, M content tokens, Q queries, D width.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from common.content import Content
from common.settings import AlignmentSettings
from tokenizer_job.alignment.qformer import QFormer

Floats = npt.NDArray[np.float32]
CHUNK = 1024


class Aligner:
    """Encodes content; neither pairs nor the caption decoder are needed for it."""

    def __init__(self, qformer: QFormer, settings: AlignmentSettings, inputs: int) -> None:
        self.qformer = qformer.eval()
        self.settings = settings
        self.inputs = inputs

    @torch.inference_mode()
    def encode(self, content: Content) -> Floats:
        """Vectors (N, Q * D) of length 1; zero for an item without content.

        Raises:
            ValueError: the content is not as wide as what the aligner was trained on.
        """
        if content.width != self.inputs:
            raise ValueError(f"content vectors must be {self.inputs} wide, as the aligner was trained, got {content.width}")
        out = np.zeros((len(content), self.settings.queries * self.settings.width), np.float32)
        for start in range(0, len(content), CHUNK):
            some = slice(start, start + CHUNK)
            tokens, mask = torch.from_numpy(content.tokens[some]), torch.from_numpy(content.mask[some])
            out[some] = self.qformer.vectors(tokens, mask).numpy()
        return out

    def save(self, path: Path) -> None:
        """Write one safetensors file, as a whole or not at all."""
        about = {"settings": self.settings.model_dump_json(), "inputs": str(self.inputs)}
        data = safetensors.torch.save(dict(self.qformer.state_dict()), about)
        building = path.with_name(f".{path.name}.building")
        building.write_bytes(data)
        os.replace(building, path)

    @staticmethod
    def load(path: Path) -> Aligner:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not an aligner, or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
            settings, inputs = AlignmentSettings.model_validate_json(about["settings"]), int(about["inputs"])
            qformer = QFormer(settings, inputs)
            qformer.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, KeyError, RuntimeError, SafetensorError, ValidationError) as error:
            raise ValueError(f"{path} is not an aligner: {error}") from None
        return Aligner(qformer, settings, inputs)
