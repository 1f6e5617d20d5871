"""What readers look at first: the newest version of a run, and of which pieces its parameters are put together."""

from __future__ import annotations

from typing import Annotated, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.tensor_file import Parameters

CHUNK_BYTES = 8 * 2**20
Precision = Literal["fp32", "bf16"]
"""Of the numbers on the wire. Readers that log probabilities take fp32, which is what the trainer has."""


class Chunk(BaseModel):
    """Where a piece lies, and what it must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    nbytes: Annotated[int, Field(ge=1, le=CHUNK_BYTES)]
    xxh3_128: str


class Part(BaseModel):
    """All parameters of a version, or what differs from the part before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=0)]
    xxh3_128: str
    """Of all parameters at this version."""
    chunks: Annotated[list[Chunk], Field(min_length=1)]

    @property
    def nbytes(self) -> int:
        """On the wire."""
        return sum(chunk.nbytes for chunk in self.chunks)


class Manifest(BaseModel):
    """The newest version of a run. In each precision the first part is whole, every later one builds on that before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    version: Annotated[int, Field(ge=0)]
    fencing: Annotated[int, Field(ge=1)]
    parts: dict[Precision, Annotated[list[Part], Field(min_length=1)]]

    @property
    def keys(self) -> list[str]:
        """Of all chunks."""
        return [chunk.key for parts in self.parts.values() for part in parts for chunk in part.chunks]

    @model_validator(mode="after")
    def _ends_with_its_version(self) -> Manifest:
        for precision, parts in self.parts.items():
            versions = [part.version for part in parts]
            if versions != sorted(set(versions)) or versions[-1] != self.version:
                raise ValueError(f"parts.{precision} must ascend to version {self.version}, got {versions}")
        if "fp32" not in self.parts:
            raise ValueError(f"parts must hold fp32, got {sorted(self.parts)}")
        return self


def digest(data: Parameters | memoryview) -> str:
    """The checksum by which parameters are known."""
    return xxhash.xxh3_128_hexdigest(data)
