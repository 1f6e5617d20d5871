"""Copies of tensors, loose or as safetensors bytes, and where they lie in these, to read or change them in place: 8 bytes
of the header's length, the header as JSON, the numbers (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from contextlib import suppress
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
ALIGNMENT = 64
"""Bytes, of a copy's beginning."""


def packed(tensors: dict[str, Tensor]) -> mmap.mmap:
    """The very bytes that ``safetensors.torch.save`` gives, for contiguous tensors on the CPU of `KINDS`.

    It copies every number twice or more, and a training step waits for it; this copies once, in torch's threads.
    """
    order = {kind: place for place, kind in enumerate(KINDS)}
    named = sorted(tensors.items(), key=lambda item: (order[item[1].dtype], item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in named:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    told += b" " * (-len(told) % 8)
    start = 8 + len(told)
    memory = _fresh_memory(start + end)
    memory[:start] = len(told).to_bytes(8, "little") + told
    numbers = torch.frombuffer(memory, dtype=torch.uint8)[start:]
    for name, tensor in named:
        numbers[slice(*header[name]["data_offsets"])].copy_(_bytes_of(tensor))
    return memory


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of contiguous tensors on the CPU, made as `packed` makes its bytes."""
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors.values()]
    places = torch.frombuffer(_fresh_memory(sum(sizes)), dtype=torch.uint8)[: sum(sizes)].split(sizes)
    found = {}
    for (name, tensor), place in zip(tensors.items(), places, strict=True):
        found[name] = place[: tensor.nbytes].copy_(_bytes_of(tensor)).view(tensor.dtype).view(tensor.shape)
    return found


def _fresh_memory(nbytes: int) -> mmap.mmap:
    """Memory that was not used before, in large pages where the system has them: to find and clear small ones, one at a
    time when they are first written to, takes the kernel twice as long as the copy itself."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel may be built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


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
