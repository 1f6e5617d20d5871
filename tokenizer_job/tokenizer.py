"""A fitted tokenizer: items -> vectors -> semantic IDs, frozen, with what is needed to go on with new items.

tokenizer/content.safetensors, …   the item encoder's files
          quantizer.safetensors    codebooks (or the autoencoder)
          card.json                version and reference figures, written last: without it there is no tokenizer
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from common.item_index import ItemIndex
from tokenizer_job.item_vectors.encoder import ItemEncoder, load_encoder
from tokenizer_job.quantizers import Quantizer, load_quantizer
from tokenizer_job.quantizers.dedup import Dedup, place_beside

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
QUANTIZER, CARD = "quantizer.safetensors", "card.json"


class TokenizerCard(BaseModel):
    """What identifies a tokenizer, and what new items are compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    """Fingerprint of the quantizer: equal versions give equal IDs to equal vectors."""
    method: str
    codes: int
    levels: int
    """Of the quantizer; an SID has one more where ``dedup`` is ``append_level``."""
    dedup: Dedup
    items: int
    residual_norm: float
    """Mean length of what the codes leave of a vector, over items of the fitted catalogue encoded as if they were new."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Encoder, quantizer and card."""

    encoder: ItemEncoder
    quantizer: Quantizer
    card: TokenizerCard

    def place(self, vectors: Floats, index: ItemIndex) -> Codes:
        """SIDs of new items with these vectors, beside those of an index: nobody's ID changes."""
        return place_beside(self.quantizer, vectors, index.is_legal, self.card.dedup)

    def save(self, folder: Path) -> None:
        """Write everything into the folder, the card last."""
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save(folder)
        self.quantizer.save(folder / QUANTIZER)
        part = folder / f".{CARD}"
        part.write_text(self.card.model_dump_json(indent=2))
        os.replace(part, folder / CARD)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Inverse of `save`.

        Raises:
            ValueError: there is no tokenizer here, or its files do not belong together (named).
        """
        try:
            card = TokenizerCard.model_validate_json((folder / CARD).read_bytes())
        except FileNotFoundError:
            raise ValueError(f"{folder} holds no tokenizer: {CARD} is missing") from None
        except ValidationError as error:
            raise ValueError(f"{folder / CARD} is not usable: {' '.join(str(error).split())[:200]}") from None
        quantizer = load_quantizer(folder / QUANTIZER)
        if quantizer.fingerprint() != card.version:
            raise ValueError(f"{folder / QUANTIZER} is not the quantizer {card.version} that the card names")
        return Tokenizer(load_encoder(folder), quantizer, card)


def residual_norms(quantizer: Quantizer, vectors: Floats, sids: Codes) -> npt.NDArray[np.float64]:
    """Length (N,) of what the codes (N, K) leave of each vector (N, d)."""
    return np.asarray(np.linalg.norm((vectors - quantizer.decode(sids)).astype(np.float64), axis=1))
