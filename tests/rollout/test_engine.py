from __future__ import annotations

import numpy as np
import pytest
import torch

from common.messages import NO_ITEM
from common.policy import build_policy
from rollout import beam_search as searching
from rollout.engine import GenerationEngine
from rollout.sampling import Truncation
from tests.factories import TINY, make_context, make_index


def test_candidates_carry_items_where_the_semantic_id_is_legal() -> None:
    index = make_index()
    candidates = GenerationEngine(build_policy(TINY), index, width=50).generate([make_context(3), make_context(9)])[1]
    assert candidates.codes.shape == (50, 3)
    assert candidates.log_probs.dtype == np.float32
    assert np.array_equal(candidates.item_ids != NO_ITEM, index.is_legal(candidates.codes))
    assert 0 < candidates.legality < 1


def test_constrained_candidates_are_all_items_and_end_when_items_do() -> None:
    index = make_index(items=20)
    [candidates] = GenerationEngine(build_policy(TINY), index, width=50, constrained=True).generate([make_context(3)])
    assert candidates.legality == 1.0
    assert len(candidates.codes) == len(np.unique(index.keys(index.sids)))


def test_generation_does_not_depend_on_the_batch() -> None:
    engine = GenerationEngine(build_policy(TINY), make_index(), width=30)
    contexts = [make_context(n, seed=n) for n in (0, 4, 40)]
    for context, together in zip(contexts, engine.generate(contexts), strict=True):
        [alone] = engine.generate([context])
        np.testing.assert_allclose(alone.log_probs.sum(-1), together.log_probs.sum(-1), atol=1e-5)


def test_items_begin_with_one_of_the_users_prefixes() -> None:
    index = make_index()
    engine = GenerationEngine(build_policy(TINY), index, width=200, constrained=True)
    contexts = [make_context(n, seed=n) for n in (0, 4, 40)]
    legal = np.unique(index.sids[:, :2], axis=0)
    some, none = legal[::5], legal[:0]
    chosen = [some, none, legal]
    everything = engine.generate(contexts)
    for user, found in enumerate(engine.generate_under(contexts, chosen)):
        expected = everything[user]
        if user == 0:
            keep = (expected.codes[:, None, :2] == some[None]).all(-1).any(-1)
            assert 0 < keep.sum() < len(keep)
            np.testing.assert_array_equal(found.codes, expected.codes[keep])
        else:  # without prefixes, or with all of them: any items
            np.testing.assert_array_equal(found.codes, expected.codes)
            np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize("constrained", [False, True])
def test_weights_that_are_no_numbers_are_an_error_and_no_empty_list(
    prune: bool, constrained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "LARGE", 0 if prune else 2**30)
    policy = build_policy(TINY)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(torch.nan)
    engine = GenerationEngine(policy, make_index(), width=50, constrained=constrained)
    with pytest.raises(ArithmeticError, match="log-probabilities are no numbers"):
        engine.generate([make_context(3), make_context(9)])


def test_draws_of_weights_that_are_no_numbers_are_an_error() -> None:
    policy = build_policy(TINY)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(torch.nan)
    engine = GenerationEngine(policy, make_index(), width=5, truncation=Truncation(4, 0.9))
    with pytest.raises(ArithmeticError, match="log-probabilities are no numbers"):
        engine.generate([make_context(3)], [1])
