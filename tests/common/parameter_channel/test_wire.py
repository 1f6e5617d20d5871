from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from common.parameter_channel.wire import difference, halved, patched
from common.policy import build_policy, load_weights, to_blob
from tests.trainer.tiny_run import tiny_settings

SHAPES = [(), (3,), (0,), (5, 4), (0, 4), (6, 2, 3), (1, 1)]
TYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool]


def tensors(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        f"t{k}": torch.randint(0, 2, shape, generator=rng).to(TYPES[k % len(TYPES)]) for k, shape in enumerate(SHAPES * 3)
    }


def change(old: bytes, new: bytes) -> bytes:
    found = difference(old, new, 10 * len(new))
    assert found is not None
    return found


@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8))
def test_a_patched_old_version_is_the_new_one_byte_for_byte(seed: int, changes: list[tuple[int, int]]) -> None:
    old, new = tensors(seed), tensors(seed)
    for which, row in changes:
        tensor = new[f"t{which}"]
        if tensor.numel():
            where = tensor if not tensor.ndim else tensor[row % len(tensor)]
            where.copy_(tensors(seed + 1)[f"t{which}"].flatten()[0])
    assert patched(save(old), change(save(old), save(new))) == save(new)


def test_numbers_are_compared_by_their_bits() -> None:
    old = {"a": torch.tensor([[0.0], [float("nan")], [1.0]])}
    new = {"a": torch.tensor([[-0.0], [float("nan")], [1.0]])}
    found = change(save(old), save(new))
    assert {name: array.tolist() for name, array in load(found).items()} == {"a#rows": [0], "a#values": [[2**31]]}
    assert patched(save(old), found) == save(new)
    assert load(change(save(old), save(old))) == {}


def test_a_version_that_touched_one_row_in_a_hundred_sends_little_more() -> None:
    table = torch.randn(10_000, 16)
    old = save({"table": table})
    table[::100] += 1
    new = save({"table": table})
    assert len(change(old, new)) < 0.015 * len(old)
    assert difference(old, new, int(0.009 * len(old))) is None


def test_of_a_large_matrix_that_changed_all_over_everything_is_sent() -> None:
    old, new = torch.randn(10_000, 3), torch.randn(10_000, 3)
    new[5] = old[5]
    found = change(save({"a": old}), save({"a": new}))
    assert list(load(found)) == ["a"]
    assert patched(save({"a": old}), found) == save({"a": new})


def test_other_parameters_and_what_does_not_fit_are_errors() -> None:
    one = save({"a": torch.zeros(3, 2)})
    for other in (save({"b": torch.zeros(3, 2)}), save({"a": torch.zeros(2, 3)}), save({"a": torch.zeros(3, 2).half()})):
        with pytest.raises(ValueError, match="have no difference"):
            difference(one, other, 1000)
    rows, values = torch.tensor([9]), torch.zeros(1, 2, dtype=torch.int32)
    for wrong in ({"a#rows": rows, "a#values": values}, {"a#rows": rows}, {"b": values}, {"a": torch.zeros(5)}):
        with pytest.raises(ValueError, match="does not fit"):
            patched(one, save(wrong))
    for blob in (b"short", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 20):
        with pytest.raises(ValueError, match="not safetensors"):
            halved(blob)
        with pytest.raises(ValueError, match="not safetensors"):
            patched(one, blob)
        with pytest.raises(ValueError, match="not safetensors"):
            difference(blob, blob, 9)


def test_a_policy_takes_up_bf16_parameters_rounded() -> None:
    policy, other = build_policy(tiny_settings().policy, 1), build_policy(tiny_settings().policy, 2)
    load_weights(other, halved(to_blob(policy)))
    for own, rounded in zip(policy.parameters(), other.parameters(), strict=True):
        assert torch.equal(own.bfloat16().float(), rounded)
