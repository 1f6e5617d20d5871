from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from common.features import Featurizer
from common.policy import build_policy
from common.settings import PolicySettings
from rollout.engine import GenerationEngine
from rollout.sampling import Truncation, draw, sample
from tests.factories import ARCHITECTURES, TINY, make_context, make_index

EVERYTHING = Truncation(top_k=10**6, top_p=1.0)


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_log_probs_are_the_teacher_forced_ones(settings: PolicySettings) -> None:
    policy = build_policy(settings).eval()
    index = make_index(codes=settings.codes, levels=settings.levels)
    memory = policy.encode(Featurizer(settings, index)([make_context(n, seed=n) for n in (0, 3, 30)]))
    uniforms = torch.rand(3, 40, settings.levels, generator=torch.Generator().manual_seed(0))
    drawn = sample(policy, memory, uniforms, Truncation(4, 0.9))
    torch.testing.assert_close(policy.log_probs(memory, drawn.codes), drawn.log_probs, atol=1e-5, rtol=0)


def test_draws_have_the_policys_frequencies() -> None:
    """20,000 draws of each of 64 pairs of codes: within five standard errors of their probabilities."""
    policy = build_policy(TINY).eval()
    for parameter in policy.parameters():
        parameter.data.mul_(2.0)
    memory = policy.encode(Featurizer(TINY, make_index())([make_context(5)]))
    uniforms = torch.rand(1, 20_000, TINY.levels, generator=torch.Generator().manual_seed(0))
    codes = sample(policy, memory, uniforms, EVERYTHING).codes[0, :, :2]
    seen = torch.bincount(codes[:, 0] * TINY.codes + codes[:, 1], minlength=TINY.codes**2) / len(codes)
    every = torch.cartesian_prod(*[torch.arange(TINY.codes)] * 2, torch.zeros(1, dtype=torch.int64))[None]
    expected = policy.log_probs(memory, every)[0, :, :2].sum(-1).exp().detach()
    assert ((seen - expected).abs() < 5 * (expected / len(codes)).sqrt() + 1e-4).all()


@given(st.integers(1, 12), st.floats(0.01, 1.0), st.integers(0, 10**6))
def test_only_codes_that_are_left_are_drawn(top_k: int, top_p: float, seed: int) -> None:
    """Against the definition: sort, keep k, keep the shortest head whose probability reaches p of theirs."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (3 * torch.randn(10, generator=generator)).log_softmax(-1)
    order = log_probs.argsort(descending=True).tolist()[:top_k]
    mass = [log_probs[code].exp().item() for code in order]
    reached = [sum(mass[:n]) - top_p * sum(mass) for n in range(1, len(order) + 1)]
    assume(top_p == 1 or min(map(abs, reached)) > 1e-5)  # otherwise rounding decides
    head = len(order) if top_p == 1 else next(n for n, over in enumerate(reached, 1) if over > 0)
    uniforms = torch.cat([torch.rand(200, generator=generator), torch.tensor([0.0, 1 - 2**-24])])
    drawn = set(draw(log_probs.expand(202, 10), uniforms, Truncation(top_k, top_p)).tolist())
    assert drawn <= set(order[:head])
    assert order[0] in drawn


def test_a_users_draws_depend_on_their_seed_alone() -> None:
    index = make_index()
    engine = GenerationEngine(build_policy(TINY), index, width=30, truncation=Truncation(6, 0.95))
    contexts = [make_context(n, seed=n) for n in (0, 4, 40)]
    together = engine.generate(contexts, [1, 2, 3])
    [alone] = engine.generate(contexts[1:2], [2])
    [other] = engine.generate(contexts[1:2], [3])
    assert np.array_equal(alone.codes, together[1].codes)
    assert not np.array_equal(other.codes, alone.codes)
    assert np.array_equal(alone.item_ids, index.head_items(alone.codes))
