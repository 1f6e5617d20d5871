"""What every architecture promises, whatever its blocks look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch

from common.context import DAY_MS
from common.features import Featurizer
from common.policy import ARCHITECTURES as BUILDERS
from common.policy import Policy, build_policy, load_weights, take_over, to_blob
from common.settings import PolicySettings
from common.tensor_file import Parameters
from tests.factories import ARCHITECTURES, LIFELONG, TINY, make_context, make_index, tiny

every_architecture = pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def random_codes(*shape: int) -> torch.Tensor:
    return torch.randint(0, TINY.codes, (*shape, TINY.levels), generator=torch.Generator().manual_seed(0))


def test_every_architecture_of_the_settings_is_built_and_tested() -> None:
    accepted = get_args(PolicySettings.model_fields["architecture"].annotation)
    assert set(accepted) == set(BUILDERS) == {s.architecture for s in ARCHITECTURES.values()}
    assert all(type(build_policy(s)) is BUILDERS[s.architecture] for s in ARCHITECTURES.values())


@every_architecture
@pytest.mark.parametrize("events", [0, 1, 40])
def test_log_probs_of_all_codes_sum_to_one(settings: PolicySettings, events: int) -> None:
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(events)]))
    every = torch.cartesian_prod(*[torch.arange(settings.codes)] * settings.levels).unsqueeze(0)
    total = policy.log_probs(memory, every).sum(-1).logsumexp(-1)
    assert total.abs().item() < 1e-5


@every_architecture
def test_a_context_is_not_changed_by_what_shares_its_batch(settings: PolicySettings) -> None:
    """Padding and masks: a short history beside a long one gives the log-probs it gives alone."""
    policy, featurize = build_policy(settings).eval(), Featurizer(settings, make_index())
    codes = random_codes(3, 2)
    contexts = [make_context(0), make_context(2, seed=1), make_context(60, seed=2)]
    together = policy.session_log_probs(policy.encode(featurize(contexts)), codes)
    for row, context in enumerate(contexts):
        alone = policy.session_log_probs(policy.encode(featurize([context])), codes[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


@every_architecture
def test_the_context_and_its_order_matter(settings: PolicySettings) -> None:
    policy, featurize = build_policy(settings).eval(), Featurizer(settings, make_index())
    context = make_context(20)
    events = context.events
    swapped = replace(context, events=replace(events, item_id=events.item_id[::-1].copy()))
    memory = policy.encode(featurize([context, swapped, make_context(21)]))
    [one, two, three] = policy.log_probs(memory, random_codes(1, 4).expand(3, -1, -1))
    assert not torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(one, three, atol=1e-5)


@every_architecture
def test_candidates_of_one_context_do_not_see_each_other(settings: PolicySettings) -> None:
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(5)]))
    codes = random_codes(1, 4)
    other = codes.clone()
    other[0, 1:] = (other[0, 1:] + 1) % TINY.codes
    torch.testing.assert_close(policy.log_probs(memory, codes)[0, 0], policy.log_probs(memory, other)[0, 0])


@every_architecture
def test_a_level_sees_only_the_levels_before_it(settings: PolicySettings) -> None:
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(5)]))
    codes = random_codes(1, 1)
    other = codes.clone()
    other[..., 2] = (other[..., 2] + 1) % TINY.codes
    torch.testing.assert_close(policy.logits(memory, codes), policy.logits(memory, other))
    other[..., 0] = (other[..., 0] + 1) % TINY.codes
    assert not torch.allclose(policy.logits(memory, codes)[..., 1, :], policy.logits(memory, other)[..., 1, :])


@every_architecture
def test_steps_equal_the_teacher_forced_pass(settings: PolicySettings) -> None:
    policy = build_policy(settings).eval()
    memory = policy.encode(Featurizer(settings, make_index())([make_context(9), make_context(1)]))
    codes = random_codes(2, 5)
    forced = policy.logits(memory, codes)
    first, cache = policy.step(memory, None, [])
    torch.testing.assert_close(policy.head(0, first).expand(-1, 5, -1), forced[:, :, 0], atol=1e-5, rtol=0)
    cache = [(k.expand(-1, 5, -1, -1, -1), v.expand(-1, 5, -1, -1, -1)) for k, v in cache]
    for level in (1, 2):
        hidden, cache = policy.step(memory, codes[..., level - 1], cache)
        torch.testing.assert_close(policy.head(level, hidden), forced[:, :, level], atol=1e-5, rtol=0)


@every_architecture
def test_gradients_reach_every_weight(settings: PolicySettings) -> None:
    policy = build_policy(settings).train()
    contexts = [make_context(50, seed=s) for s in range(4)]
    tomorrow = [replace(c, time_ms=c.time_ms + DAY_MS) for c in contexts]
    memory = policy.encode(Featurizer(settings, make_index())(tomorrow))
    policy.session_log_probs(memory, random_codes(4, 3)).sum().backward()
    dead = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not dead


@every_architecture
def test_weights_survive_the_wire(settings: PolicySettings) -> None:
    policy, other = build_policy(settings, seed=0), build_policy(settings, seed=1)
    load_weights(other, to_blob(policy))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))


def test_weights_that_do_not_fit_are_refused() -> None:
    blob = to_blob(build_policy(TINY))
    for other in (tiny(**LIFELONG), ARCHITECTURES["lazy"], ARCHITECTURES["session"]):
        with pytest.raises(ValueError, match=r"differing tensors"):
            load_weights(build_policy(other), blob)


@pytest.mark.parametrize("load", [load_weights, take_over])
def test_weights_of_which_one_does_not_fit_change_nothing(load: Callable[[Policy, Parameters], None]) -> None:
    policy, given = build_policy(tiny(codes=9)), to_blob(build_policy(TINY, seed=1))
    before = to_blob(policy)
    with pytest.raises(ValueError, match=r"expected shape"):
        load(policy, given)
    assert to_blob(policy) == before
