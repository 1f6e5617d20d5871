from __future__ import annotations

import numpy as np
import pytest
import torch

from common.features import Featurizer
from common.policy import Memory, Policy, build_policy
from common.settings import PolicySettings
from common.tensor_trie import TensorTrie
from rollout.beam_search import beam_search
from tests.factories import ARCHITECTURES, TINY, make_context, make_index, tiny


def far_from_uniform(settings: PolicySettings) -> tuple[Policy, Memory]:
    policy = build_policy(settings).eval()
    for parameter in policy.parameters():  # so that the order of beams means something
        parameter.data.mul_(2.0)
    index = make_index(codes=settings.codes, levels=settings.levels)
    return policy, policy.encode(Featurizer(settings, index)([make_context(n, seed=n) for n in (0, 3, 30)]))


@pytest.fixture(params=list(ARCHITECTURES.values()), ids=list(ARCHITECTURES))
def encoded(request: pytest.FixtureRequest) -> tuple[Policy, Memory]:
    return far_from_uniform(request.param)


def enumerate_all(policy: Policy, memory: Memory) -> tuple[torch.Tensor, torch.Tensor]:
    every = torch.cartesian_prod(*[torch.arange(TINY.codes)] * TINY.levels).expand(len(memory.mask), -1, -1)
    return every, policy.log_probs(memory, every).sum(-1)


def test_a_full_width_beam_equals_exhaustive_enumeration(encoded: tuple[Policy, Memory]) -> None:
    every, scores = enumerate_all(*encoded)
    beams = beam_search(*encoded, width=TINY.codes**TINY.levels)
    expected = scores.sort(descending=True)
    torch.testing.assert_close(beams.scores, expected.values, atol=1e-5, rtol=0)
    torch.testing.assert_close(beams.codes[:, :20], every.gather(1, expected.indices[..., None].expand(-1, -1, 3))[:, :20])


def test_a_width_that_keeps_all_prefixes_is_exact(encoded: tuple[Policy, Memory]) -> None:
    """8 x 8 prefixes fit in a width of 64, so the best 64 sequences are the true ones."""
    _, scores = enumerate_all(*encoded)
    beams = beam_search(*encoded, width=64)
    torch.testing.assert_close(beams.scores, scores.sort(descending=True).values[:, :64], atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [1, 5, 40])
def test_scores_are_the_teacher_forced_log_probs(encoded: tuple[Policy, Memory], width: int) -> None:
    policy, memory = encoded
    beams = beam_search(policy, memory, width)
    assert beams.codes.shape == (3, width, TINY.levels)
    torch.testing.assert_close(policy.log_probs(memory, beams.codes), beams.log_probs, atol=1e-5, rtol=0)
    assert (beams.scores.diff(dim=1) <= 1e-6).all()
    assert all(len({tuple(c) for c in user.tolist()}) == width for user in beams.codes)


def test_512_beams_with_fewer_codes_than_beams(encoded: tuple[Policy, Memory]) -> None:
    assert beam_search(*encoded, width=512).codes.shape[1] == TINY.codes**3


def test_a_constrained_beam_finds_exactly_the_legal_sequences(encoded: tuple[Policy, Memory]) -> None:
    index = make_index()
    legal = np.unique(index.keys(index.sids))
    policy, memory = encoded
    beams = beam_search(policy, memory, 100, TensorTrie(index.trie))
    for codes, scores in zip(beams.codes.numpy(), beams.scores, strict=True):
        found = torch.isfinite(scores).numpy()
        assert sorted(index.keys(codes[found]).tolist()) == legal.tolist()
    every, scores = enumerate_all(policy, memory)
    scores[:, ~torch.from_numpy(index.is_legal(every[0].numpy()))] = float("-inf")
    best = beam_search(policy, memory, 64, TensorTrie(index.trie)).scores[:, :10]
    torch.testing.assert_close(best, scores.sort(descending=True).values[:, :10], atol=1e-5, rtol=0)


SESSION = tiny(architecture="session_decoder", session_items=3, levels=2, codes=3)


def test_a_full_width_session_beam_equals_exhaustive_enumeration() -> None:
    """Three items of two levels of three codes: 729 sessions."""
    policy, memory = far_from_uniform(SESSION)
    every = torch.cartesian_prod(*[torch.arange(3)] * 6)
    items = every.view(1, -1, 2).expand(3, -1, -1)  # sessions of three items, one after another
    scores = policy.session_log_probs(memory, items).view(3, len(every), 6).sum(-1)
    assert scores.logsumexp(-1).abs().max() < 1e-5
    beams = beam_search(policy, memory, len(every), items=3)
    expected = scores.sort(descending=True)
    torch.testing.assert_close(beams.scores, expected.values, atol=1e-5, rtol=0)
    assert torch.equal(beams.codes[:, :20], every[expected.indices[:, :20]])


@pytest.mark.parametrize("width", [1, 7, 40])
def test_session_scores_are_the_teacher_forced_log_probs(width: int) -> None:
    policy, memory = far_from_uniform(SESSION)
    beams = beam_search(policy, memory, width, items=3)
    assert beams.codes.shape == (3, width, 6)
    items = beams.codes.view(3, width * 3, 2)
    forced = policy.session_log_probs(memory, items).view(3, width, 6)
    torch.testing.assert_close(forced, beams.log_probs, atol=1e-5, rtol=0)


def test_every_item_of_a_constrained_session_is_legal() -> None:
    index = make_index(items=9, codes=8)
    policy, memory = far_from_uniform(ARCHITECTURES["session"])
    beams = beam_search(policy, memory, 50, TensorTrie(index.trie), items=3)
    assert torch.isfinite(beams.scores).all()
    assert index.is_legal(beams.codes.view(-1, 3).numpy()).all()
    assert len({tuple(c) for c in beams.codes[0].tolist()}) == 50
