from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from common.tensor_file import ALIGNMENT, KINDS, copies, packed

SHAPES = st.lists(st.integers(0, 4), max_size=3)


GIVEN = st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(st.sampled_from(sorted(KINDS, key=str)), SHAPES))


@given(GIVEN)
def test_packed_tensors_are_the_librarys_bytes(given_kinds: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    tensors = _tensors(given_kinds)
    found = bytes(packed(tensors))
    assert found == save(tensors)
    assert _values(load(found)) == _values(tensors)


@given(GIVEN)
def test_copies_are_the_same_and_stay_when_the_tensors_change(given_kinds: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    tensors = _tensors(given_kinds)
    before, found = _values(tensors), copies(tensors)
    for tensor in tensors.values():
        tensor.fill_(1)
    assert _values(found) == before
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in tensors.items()}
    assert all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in found.values() if tensor.numel())


def _tensors(given_kinds: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: (10 * torch.rand(shape, generator=generator)).to(kind) for name, (kind, shape) in given_kinds.items()}


def _values(tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}
