"""What travels of a version: all of it, or the rows that differ from another one; in fp32 or in bf16.

Parameters are safetensors bytes. So is a difference: ``NAME`` is a tensor that is sent whole, ``NAME#rows`` and
``NAME#values`` are the rows of a matrix that changed, and a tensor that did not is left out.
"""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

ROWS, VALUES = "#rows", "#values"
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


def difference(old: bytes, new: bytes) -> bytes:
    """What `patched` needs beside ``old`` to give ``new``, compared bit by bit.

    Raises:
        ValueError: they are not parameters of one policy.
    """
    before, after = _tensors(old), _tensors(new)
    if _form(before) != _form(after):
        raise ValueError("parameters of two policies have no difference: names, types or shapes disagree")
    out: dict[str, Tensor] = {}
    for name, tensor in after.items():
        rows = _changed_rows(before[name], tensor)
        if not len(rows):
            continue
        if tensor.ndim < 2 or len(rows) * (tensor[0].nbytes + rows.itemsize) >= tensor.nbytes:
            out[name] = tensor
        else:
            out |= {name + ROWS: rows, name + VALUES: tensor[rows]}
    return save(out)


def patched(old: bytes, change: bytes) -> bytes:
    """The parameters that `difference` compared ``old`` with.

    Raises:
        ValueError: the difference does not fit.
    """
    tensors, news = _tensors(old), _tensors(change)
    try:
        for name, tensor in news.items():
            if name.endswith(ROWS):
                tensors[name.removesuffix(ROWS)][tensor] = news[name.removesuffix(ROWS) + VALUES]
            elif not name.endswith(VALUES):
                tensors[name] = tensor
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"a difference does not fit: {error}") from None
    return save(tensors)


def halved(blob: bytes) -> bytes:
    """The same parameters with fp32 rounded to bf16, for readers that log no probabilities.

    Raises:
        ValueError: they are no parameters.
    """
    return save({n: t.bfloat16() if t.dtype == torch.float32 else t for n, t in _tensors(blob).items()})


def _form(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _changed_rows(old: Tensor, new: Tensor) -> Tensor:
    one, other = (_rows(tensor).view(_BITS[new.itemsize]) for tensor in (old, new))
    return (one != other).any(1).nonzero()[:, 0].int()


def _rows(tensor: Tensor) -> Tensor:
    """A matrix of its rows; each number of a vector is one."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor.view(-1, 1)


def _tensors(blob: bytes) -> dict[str, Tensor]:
    try:
        return load(blob)
    except SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from None
