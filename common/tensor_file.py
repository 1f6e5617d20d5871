"""Where tensors lie in safetensors bytes, to read or change them in place: 8 bytes of the header's length, the header as
JSON, the numbers (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Parameters: TypeAlias = bytes | bytearray | mmap.mmap
"""A policy's weights as safetensors bytes, in memory or in a file."""


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor: its type by safetensors' name, where it begins, how many numbers it has and of how many bytes."""

    name: str
    kind: str
    shape: list[int]
    start: int
    count: int
    itemsize: int


def places(blob: Parameters) -> Iterator[Place]:
    """Every tensor, in the header's order.

    Raises:
        ValueError: there is no header.
    """
    start = header_end(blob)
    for name, told in json.loads(blob[8:start]).items():
        if name != "__metadata__":
            (first, end), shape = told["data_offsets"], told["shape"]
            count = math.prod(shape)
            yield Place(name, told["dtype"], shape, start + first, count, (end - first) // max(count, 1))


def header_end(blob: Parameters) -> int:
    """Where the numbers begin.

    Raises:
        ValueError: there is no header.
    """
    end = 8 + int.from_bytes(blob[:8], "little")
    if end > len(blob) or blob[8:9] != b"{":
        raise ValueError("not safetensors: no header")
    return end
