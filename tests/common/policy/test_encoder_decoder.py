from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.context import DAY_MS
from common.features import Featurizer
from common.policy import build_policy, load_weights, to_blob
from common.settings import PolicySettings
from tests.factories import MIXED, TINY, make_context, make_index

LIFELONG = TINY.model_copy(update={"lifelong_length": 6, "lifelong_queries": 3})


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(0, TINY.codes, (*shape, TINY.levels), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [TINY, LIFELONG, MIXED])
@pytest.mark.parametrize("events", [0, 1, 40])
def test_log_probs_of_all_codes_sum_to_one(settings: PolicySettings, events: int) -> None:
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(events)]))
    every = torch.cartesian_prod(*[torch.arange(settings.codes)] * settings.levels).unsqueeze(0)
    total = policy.log_probs(memory, every).sum(-1).logsumexp(-1)
    assert total.abs().item() < 1e-5


@pytest.mark.parametrize("settings", [TINY, LIFELONG, MIXED])
def test_a_context_is_not_changed_by_what_shares_its_batch(settings: PolicySettings) -> None:
    """Padding and masks: a short history beside a long one gives the log-probs it gives alone."""
    policy, featurize = build_policy(settings).eval(), Featurizer(settings, make_index())
    codes = random_codes(3, 2)
    contexts = [make_context(0), make_context(2, seed=1), make_context(60, seed=2)]
    together = policy.log_probs(policy.encode(featurize(contexts)), codes)
    for row, context in enumerate(contexts):
        alone = policy.log_probs(policy.encode(featurize([context])), codes[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_targets_of_one_context_do_not_see_each_other() -> None:
    policy = build_policy(TINY).eval()
    memory = policy.encode(Featurizer(TINY, make_index())([make_context(5)]))
    codes = random_codes(1, 4)
    other = codes.clone()
    other[0, 1:] = (other[0, 1:] + 1) % TINY.codes
    torch.testing.assert_close(policy.log_probs(memory, codes)[0, 0], policy.log_probs(memory, other)[0, 0])


def test_a_level_sees_only_the_levels_before_it() -> None:
    policy = build_policy(TINY).eval()
    memory = policy.encode(Featurizer(TINY, make_index())([make_context(5)]))
    codes = random_codes(1, 1)
    other = codes.clone()
    other[..., 2] = (other[..., 2] + 1) % TINY.codes
    torch.testing.assert_close(policy.logits(memory, codes), policy.logits(memory, other))
    other[..., 0] = (other[..., 0] + 1) % TINY.codes
    assert not torch.allclose(policy.logits(memory, codes)[..., 1, :], policy.logits(memory, other)[..., 1, :])


@pytest.mark.parametrize("settings", [LIFELONG, MIXED])
def test_steps_equal_the_teacher_forced_pass(settings: PolicySettings) -> None:
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(9), make_context(1)]))
    codes = random_codes(2, 5)
    forced = policy.logits(memory, codes)
    first, cache = policy.step(memory, None, [])
    torch.testing.assert_close(first.expand(-1, 5, -1), forced[:, :, 0], atol=1e-5, rtol=0)
    cache = [(k.expand(-1, 5, -1, -1, -1), v.expand(-1, 5, -1, -1, -1)) for k, v in cache]
    for level in (1, 2):
        logits, cache = policy.step(memory, codes[..., level - 1], cache)
        torch.testing.assert_close(logits, forced[:, :, level], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [LIFELONG, MIXED])
def test_gradients_reach_every_weight(settings: PolicySettings) -> None:
    policy = build_policy(settings).train()
    contexts = [make_context(50, seed=s) for s in range(4)]
    tomorrow = [replace(c, time_ms=c.time_ms + DAY_MS) for c in contexts]
    memory = policy.encode(Featurizer(settings, make_index())(tomorrow))
    policy.log_probs(memory, random_codes(4, 3)).sum().backward()
    dead = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not dead


def test_weights_survive_the_wire_and_misfits_are_refused() -> None:
    policy, other = build_policy(TINY, seed=0), build_policy(TINY, seed=1)
    load_weights(other, to_blob(policy))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"differing tensors"):
        load_weights(build_policy(LIFELONG), to_blob(policy))
    with pytest.raises(ValueError, match=r"expected shape"):
        load_weights(build_policy(TINY.model_copy(update={"codes": 9})), to_blob(policy))
