from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from common.features import EventFeatures, Featurizer
from common.policy import Memory, build_policy
from common.policy.lazy_decoder import LazyAttention, LazyDecoder
from common.settings import PolicySettings
from tests.factories import ARCHITECTURES, make_context, make_index, tiny


def lazy(layers: int = 6, **changes: object) -> PolicySettings:
    return tiny(architecture="lazy_decoder", decoder_layers=layers, lazy=changes)


def built(settings: PolicySettings) -> LazyDecoder:
    policy = build_policy(settings).eval()
    assert isinstance(policy, LazyDecoder)
    return policy


def encoded(settings: PolicySettings) -> Memory:
    return built(settings).encode(Featurizer(settings, make_index())([make_context(9), make_context(0)]))


@pytest.mark.parametrize("name", ["lazy", "lazy-grouped"])
def test_cross_attention_has_no_key_or_value_projection(name: str) -> None:
    policy = built(ARCHITECTURES[name])
    cross = {n.split(".", 3)[-1] for n, _ in policy.named_parameters() if ".cross_attention." in n}
    assert cross == {"query.weight", "output.weight"}


@pytest.mark.parametrize(("kv_layers", "expected"), [(1, [0] * 6), (2, [0, 0, 0, 1, 1, 1]), (4, [0, 0, 1, 2, 2, 3])])
def test_blocks_of_one_share_hold_the_same_tensors(kv_layers: int, expected: list[int]) -> None:
    """Block l of N reads share floor(l L_kv / N), counted from 0."""
    pairs = encoded(lazy(kv_layers=kv_layers, kv_split=2)).keys_values
    distinct = list(dict.fromkeys(id(keys) for keys, _ in pairs))
    assert [distinct.index(id(keys)) for keys, _ in pairs] == expected
    assert len({id(values) for _, values in pairs}) == kv_layers


@pytest.mark.parametrize("kv_split", [1, 2])
@pytest.mark.parametrize("groups", [0, 1, 2])
def test_keys_and_values_have_the_size_of_their_slices(kv_split: int, groups: int) -> None:
    settings = lazy(kv_layers=3, kv_split=kv_split, kv_groups=groups)
    policy, memory = built(settings), encoded(settings)
    width = kv_split * 3 * (groups or 4) * 8
    assert policy.project_events(torch.zeros(policy.event.width)).shape == (width,)
    for keys, values in memory.keys_values:
        assert keys.shape == values.shape == (2, groups or 4, memory.mask.shape[-1], 8)
        assert (keys is values) == (kv_split == 1)
        torch.testing.assert_close(keys.square().mean((1, 3)), torch.ones(keys.shape[0], keys.shape[2]), atol=1e-2, rtol=0)


def test_grouped_queries_equal_attention_over_repeated_keys() -> None:
    torch.manual_seed(0)
    attention = LazyAttention(width=24, heads=6)
    x, keys, values = torch.randn(2, 5, 24), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    mask = torch.rand(2, 1, 1, 7) < 0.7
    mask[..., 0] = True
    query = attention.query(x).unflatten(-1, (6, 4)).transpose(1, 2)
    repeated = (keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1))
    mixed = functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask)
    torch.testing.assert_close(attention(x, (keys, values), mask), attention.output(mixed.transpose(1, 2).flatten(2)))


def test_a_leaf_of_two_events_weighs_as_much_as_two_of_them() -> None:
    settings = ARCHITECTURES["lazy-grouped"]
    policy = built(settings)
    policy.positions["lifelong"].data.zero_()  # else two copies stand at different positions
    inputs = Featurizer(settings, make_index())([make_context(30)])
    assert inputs.lifelong is not None
    columns = {name: getattr(inputs.lifelong, name) for name in EventFeatures.__dataclass_fields__}
    columns = {name: column[:, [0]] for name, column in columns.items()} | {"mask": torch.ones(1, 1, dtype=torch.bool)}
    leaf = EventFeatures(**columns | {"leaf_size": torch.full((1, 1), 2.0)})
    ones = {name: torch.cat((column, column), 1) for name, column in columns.items()}
    copies = EventFeatures(**ones | {"leaf_size": torch.ones(1, 2)})
    codes = torch.tensor([[[1, 2, 3]]])
    heavy, double = (policy.log_probs(policy.encode(replace(inputs, lifelong=x)), codes) for x in (leaf, copies))
    torch.testing.assert_close(heavy, double, atol=1e-5, rtol=0)
    light = policy.log_probs(policy.encode(replace(inputs, lifelong=replace(leaf, leaf_size=torch.ones(1, 1)))), codes)
    assert not torch.allclose(heavy, light, atol=1e-5)
