"""Codebooks of a fit that is under way, level by level, so that an interrupted one goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tokenizer_job.quantizers.codebooks import Floats


class LevelsFile:
    """A file of leading codebooks that belongs to one fit: same vectors, same settings, same seed."""

    def __init__(self, path: Path, vectors: Floats, settings: str) -> None:
        """``settings`` is any text that says all that the fit depends on beside the vectors (N, d)."""
        digest = xxhash.xxh3_128(settings.encode())
        digest.update(np.ascontiguousarray(vectors).data)
        self.path, self.identity = path, digest.hexdigest()

    def read(self) -> list[Floats]:
        """The codebooks (N_t, d) so far; none if there is no file, or it is another fit's or damaged."""
        try:
            with safe_open(self.path, "numpy") as file:
                if (file.metadata() or {}).get("identity") != self.identity:
                    return []
                return list(file.get_tensor("codebooks"))
        except (FileNotFoundError, SafetensorError):
            return []

    def write(self, codebooks: list[Floats]) -> None:
        """Replace the file by these codebooks."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        save_file({"codebooks": np.stack(codebooks)}, part, {"identity": self.identity})
        os.replace(part, self.path)

    def remove(self) -> None:
        """The fit is done."""
        self.path.unlink(missing_ok=True)
