from __future__ import annotations

import pytest
import torch

from common.features import Featurizer
from common.policy import Memory, build_policy
from common.policy.session_decoder import SessionDecoder
from tests.factories import make_context, make_index, tiny

SETTINGS = tiny(architecture="session_decoder", session_items=3)


@pytest.fixture
def encoded() -> tuple[SessionDecoder, Memory]:
    policy = build_policy(SETTINGS).eval()
    assert isinstance(policy, SessionDecoder)
    return policy, policy.encode(Featurizer(SETTINGS, make_index())([make_context(9), make_context(0)]))


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(0, SETTINGS.codes, (*shape, SETTINGS.levels), generator=torch.Generator().manual_seed(0))


def test_a_session_has_a_target_for_each_level_of_each_item(encoded: tuple[SessionDecoder, Memory]) -> None:
    """m L targets: BOS predicts the first level, and the last level predicts nothing."""
    policy, memory = encoded
    assert policy.whole_session_logits(memory, random_codes(2, 4, 3)).shape == (2, 4, 3, SETTINGS.levels, SETTINGS.codes)


def test_an_item_sees_the_items_before_it_and_none_after(encoded: tuple[SessionDecoder, Memory]) -> None:
    policy, memory = encoded
    codes = random_codes(2, 3)
    for item in range(3):
        for level in range(SETTINGS.levels):
            other = codes.clone()
            other[:, item, level] = (other[:, item, level] + 1) % SETTINGS.codes
            before = policy.whole_session_logits(memory, codes.unsqueeze(1)).flatten(0, 3).unflatten(0, (2, -1))
            after = policy.whole_session_logits(memory, other.unsqueeze(1)).flatten(0, 3).unflatten(0, (2, -1))
            changed = ((before - after).abs() > 1e-6).any(-1).any(0)
            own = item * SETTINGS.levels + level
            assert not changed[: own + 1].any()
            assert changed[own + 1 :].all()


def test_the_first_item_is_a_candidate(encoded: tuple[SessionDecoder, Memory]) -> None:
    policy, memory = encoded
    codes = random_codes(2, 3)
    first = policy.session_log_probs(memory, codes)[:, 0]
    torch.testing.assert_close(first, policy.log_probs(memory, codes)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shown", [1, 2, 5, 6])
def test_more_items_than_a_session_holds_are_cut_and_none_is_lost(
    encoded: tuple[SessionDecoder, Memory], shown: int
) -> None:
    policy, memory = encoded
    codes = random_codes(2, shown)
    together = policy.session_log_probs(memory, codes)
    parts = [policy.session_log_probs(memory, codes[:, start : start + 3]) for start in range(0, shown, 3)]
    torch.testing.assert_close(together, torch.cat(parts, 1), atol=1e-5, rtol=0)


def test_steps_go_through_the_session_and_end_with_it(encoded: tuple[SessionDecoder, Memory]) -> None:
    policy, memory = encoded
    codes = random_codes(2, 3)
    forced = policy.whole_session_logits(memory, codes.unsqueeze(1)).flatten(1, 3)
    flat = codes.flatten(1)
    hidden, cache = policy.step(memory, None, [])
    for position in range(flat.shape[1]):
        logits = policy.head(position % 3, hidden.squeeze(1))
        torch.testing.assert_close(logits, forced[:, position], atol=1e-5, rtol=0)
        if position + 1 < flat.shape[1]:
            hidden, cache = policy.step(memory, flat[:, [position]], cache)
    with pytest.raises(ValueError, match=r"at most policy\.session_items = 3 items"):
        policy.step(memory, flat[:, [-1]], cache)
