"""Tensors as safetensors bytes, written with one copy, and where they lie in them, to read or change them in place: 8 bytes
of the header's length, the header as JSON, the numbers (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Parameters: TypeAlias = bytes | bytearray | mmap.mmap
"""A policy's weights as safetensors bytes, in memory or in a file."""


KINDS = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types by safetensors' names, in the order in which it puts them."""


def packed(tensors: dict[str, Tensor]) -> bytes:
    """The very bytes that ``safetensors.torch.save`` gives, for contiguous tensors on the CPU of `KINDS`.

    It copies every number twice or more, and a training step waits for it; this copies once.
    """
    order = {kind: place for place, kind in enumerate(KINDS)}
    named = sorted(tensors.items(), key=lambda item: (order[item[1].dtype], item[0]))
    header: dict[str, Any] = {}
    parts, end = [], 0
    for name, tensor in named:
        data = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + data.nbytes]}
        parts.append(data)
        end += data.nbytes
    told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    told += b" " * (-len(told) % 8)
    return b"".join((len(told).to_bytes(8, "little"), told, *parts))


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
