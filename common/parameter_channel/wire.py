"""What travels of a version: all of it, or the rows that differ from another one; in fp32 or in bf16.

Parameters are safetensors bytes, and so is a difference, of bits: ``NAME`` is a tensor that is sent whole, ``NAME#rows`` and
``NAME#values`` are the rows of a matrix that changed, and a tensor that did not is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from common.tensor_file import Parameters, header_end, places

Bits = npt.NDArray[np.unsignedinteger[Any]]
ROWS, VALUES = "#rows", "#values"
SAMPLE, MOSTLY = 256, 0.9
"""Of a larger tensor at least so many rows are looked at; if so many of these differ, everything is sent."""


def difference(old: bytes, new: bytes, limit: int) -> bytes | None:
    """What `patched` needs beside ``old`` to give ``new``, compared bit by bit; None if that is more than ``limit`` bytes.

    Raises:
        ValueError: they are not parameters of one policy.
    """
    header = header_end(new)
    if old[:header] != new[:header]:
        raise ValueError("parameters of two policies have no difference: names, types or shapes disagree")
    out: dict[str, Bits] = {}
    for (name, before), (_, after) in zip(_matrices(old), _matrices(new), strict=True):
        if _mostly_differ(before, after):
            out[name] = after
        elif len(rows := _differing(before, after)):
            few = len(rows) * (after[0].nbytes + rows.itemsize) < after.nbytes
            out |= {name + ROWS: rows, name + VALUES: after[rows]} if few else {name: after}
        if sum(array.nbytes for array in out.values()) > limit:
            return None
    return safetensors.numpy.save(out)


def patched(old: Parameters, change: bytes) -> bytearray:
    """The parameters that `difference` compared ``old`` with.

    Raises:
        ValueError: the difference does not fit.
    """
    news, data = _loaded(change), bytearray(old)
    matrices = dict(_matrices(data))
    try:
        for name, array in news.items():
            if name.endswith(ROWS):
                matrices[name.removesuffix(ROWS)][array] = news[name.removesuffix(ROWS) + VALUES]
            elif not name.endswith(VALUES):
                matrices[name][:] = array
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"a difference does not fit: {error}") from None
    return data


def halved(blob: bytes) -> bytes:
    """The same parameters with fp32 rounded to bf16, for readers that log no probabilities.

    Raises:
        ValueError: they are no parameters.
    """
    try:
        tensors = load(blob)
    except SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from None
    return save({n: t.bfloat16() if t.dtype == torch.float32 else t for n, t in tensors.items()})


def _mostly_differ(before: Bits, after: Bits) -> bool:
    """Whether nearly all of some rows differ: then the others need no look."""
    seen = slice(None, None, len(before) // SAMPLE or 1)
    differ = (before[seen] != after[seen]).any(1)
    return len(differ) >= SAMPLE and bool(differ.mean() > MOSTLY)


def _differing(before: Bits, after: Bits) -> npt.NDArray[np.uint32]:
    rows: npt.NDArray[np.uint32] = (before != after).any(1).nonzero()[0].astype(np.uint32)
    return rows


def _matrices(blob: Parameters) -> Iterator[tuple[str, Bits]]:
    """Every tensor's name and bits, in place, as a matrix of its rows; each number of a vector is one.

    Bits come eight bytes at a time, if that divides a row: there is less to compare.
    """
    for place in places(blob):
        rows = place.shape[0] if len(place.shape) > 1 and place.count else place.count
        nbytes = place.count * place.itemsize
        unit = 8 if rows and nbytes % (8 * rows) == 0 else max(place.itemsize, 1)
        yield place.name, np.frombuffer(blob, f"u{unit}", nbytes // unit, place.start).reshape(rows, -1 if rows else 1)


def _loaded(change: bytes) -> dict[str, Bits]:
    try:
        return safetensors.numpy.load(change)
    except SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from None
