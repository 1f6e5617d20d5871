from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from common.tensor_file import KINDS, packed

SHAPES = st.lists(st.integers(0, 4), max_size=3)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(st.sampled_from(sorted(KINDS, key=str)), SHAPES)))
def test_packed_tensors_are_the_librarys_bytes(given_kinds: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: (10 * torch.rand(shape, generator=generator)).to(kind) for name, (kind, shape) in given_kinds.items()}
    found = packed(tensors)
    assert found == save(tensors)
    assert {name: tensor.tolist() for name, tensor in load(found).items()} == {n: t.tolist() for n, t in tensors.items()}
