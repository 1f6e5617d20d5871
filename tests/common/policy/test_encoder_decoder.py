from __future__ import annotations

import pytest
import torch

from common.features import Featurizer
from common.policy import build_policy
from common.settings import SettingsError, load_settings
from tests.factories import TINY, make_context, make_index, tiny


def beginnings(item_path: bool, *events: int) -> torch.Tensor:
    """What decoding begins with, less the learned vector: (contexts, D)."""
    settings = tiny(item_path=item_path)
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(n) for n in events]))
    return (memory.begin - policy.begin).squeeze(1)


def test_without_the_item_path_everybody_begins_alike() -> None:
    assert not beginnings(False, 0, 3, 50).any()


def test_the_item_path_tells_contexts_apart_from_the_start() -> None:
    none, few, many = beginnings(True, 0, 3, 50)
    assert none.any()  # the user alone
    assert not torch.allclose(none, few, atol=1e-3)
    assert not torch.allclose(few, many, atol=1e-3)


def test_a_user_without_events_begins_alike_beside_others() -> None:
    torch.testing.assert_close(beginnings(True, 0)[0], beginnings(True, 0, 50)[0], atol=1e-5, rtol=0)


def test_the_item_path_has_no_weights() -> None:
    weights = build_policy(tiny(item_path=True)).state_dict()
    assert {name: tensor.shape for name, tensor in build_policy(TINY).state_dict().items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }


def test_the_lazy_decoder_has_no_item_path() -> None:
    with pytest.raises(SettingsError, match=r"policy.item_path must be false with policy.architecture lazy_decoder"):
        load_settings("", ["policy.architecture=lazy_decoder", "policy.item_path=true"])
