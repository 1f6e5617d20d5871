"""A pretrained Hugging Face causal language model from a local folder: gradients pass through it, it never changes."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn


class FrozenLanguageModel(nn.Module):
    """Continues a prefix of vectors; loaded without any access to the network and without pickled weights.

    Raises:
        ValueError: transformers is not installed, or the folder holds no such model with safetensors and a tokenizer.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ValueError(
                f"alignment.caption_model is {folder!r}, which needs transformers: pip install 'onerec-online[captions]'"
            ) from None
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"alignment.caption_model must be a model's folder with its config.json, got {folder!r}")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            ).requires_grad_(False)
        except (OSError, ValueError) as error:
            raise ValueError(f"alignment.caption_model {folder!r} cannot be loaded: {error}") from None
        self.width = cast(int, self.model.get_input_embeddings().embedding_dim)

    def train(self, mode: bool = True) -> FrozenLanguageModel:
        """The model never drops out, whatever the ``mode`` of its surroundings."""
        super().train(mode)
        self.model.train(False)
        return self

    def token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text, then its end token if it has one."""
        end = [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]
        return [*self.tokenizer.encode(text, add_special_tokens=False), *end]

    def forward(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Prefix (B, Q, W), T - 1 tokens (B, T - 1) -> logits (B, T, V)."""
        inputs = torch.cat((prefix, self.model.get_input_embeddings()(tokens)), 1)
        logits: Tensor = self.model(inputs_embeds=inputs, use_cache=False).logits[:, prefix.shape[1] - 1 :]
        return logits
