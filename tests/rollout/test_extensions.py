from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from common.features import Featurizer
from common.policy import build_policy
from common.tensor_trie import TensorTrie
from rollout import beam_search as searching
from rollout import extensions
from rollout.beam_search import beam_search
from rollout.extensions import Best, above, all_extensions, segment_peaks
from tests.factories import ARCHITECTURES, make_context, make_index


@given(
    seed=st.integers(0, 2**31),
    users=st.integers(1, 4),
    beams=st.integers(1, 30),
    codes=st.sampled_from([1, 6, 64, 96, 128]),
    width=st.integers(1, 50),
    spread=st.sampled_from([0.0, 0.3, 5.0]),
    group=st.integers(1, 12),
)
@example(seed=537923, users=1, beams=14, codes=128, width=23, spread=5.0, group=2)  # differs by 1.0013e-5
@settings(deadline=None)
def test_offered_in_groups_the_best_are_those_of_all(
    seed: int, users: int, beams: int, codes: int, width: int, spread: float, group: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = partial(functional.linear, weight=spread * torch.randn(codes, 8, generator=generator))
    hidden = torch.randn(users, beams, 8, generator=generator)
    score = -3 * torch.rand(users, beams, generator=generator).sort(descending=False).values
    expected = all_extensions(head(hidden), score, width)
    best = Best(users, width, codes)
    best.block_rows = 4 * users
    for start in range(0, beams, group):
        part = slice(start, start + group)
        best.offer(head, hidden[:, part], score[:, part], start)
    found = best.result()
    rounding = 1e-5 * max(1.0, spread)  # logits are as large as the weights, and so is their rounding
    torch.testing.assert_close(found.score, expected.score, atol=rounding, rtol=0)
    every = head(hidden).log_softmax(-1)  # of equally good ones any may be found: each must be what it says it is
    whose = torch.arange(users).unsqueeze(1)
    torch.testing.assert_close(found.log_prob, every[whose, found.parent, found.code], atol=rounding, rtol=0)
    torch.testing.assert_close(found.score, score[whose, found.parent] + found.log_prob, atol=rounding, rtol=0)
    for parents, their_codes in zip(found.parent.tolist(), found.code.tolist(), strict=True):
        assert len(set(zip(parents, their_codes, strict=True))) == found.score.shape[1]


def test_beams_that_cannot_matter_are_not_scored() -> None:
    """The first beam alone has four extensions of log-probability ln 1/4; the second begins below that. Another user's
    second beam, as good as the first, is scored all the same."""
    head = partial(functional.linear, weight=torch.zeros(4, 2))
    best = Best(2, 4, codes=4)
    best.block_rows = 2
    best.offer(head, torch.zeros(2, 3, 2), torch.tensor([[0.0, -1.5, -9.0], [0.0, 0.0, -9.0]]), 0)
    assert best.rows == 3
    assert best.result().parent[0].tolist() == [0, 0, 0, 0]


@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from([1, 7, 64, 130, 192]))
@settings(deadline=None)
def test_above_finds_every_value_above_its_rows_limit(seed: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    values[0, 0] = float("-inf")
    limits = torch.randn(rows, generator=generator)
    found = torch.stack(above(values, segment_peaks(values), limits), 1).tolist()
    assert sorted(found) == (values > limits.unsqueeze(-1)).nonzero().tolist()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("width", [3, 20, 700])
def test_a_pruned_search_finds_what_a_whole_one_does(
    name: str, constrained: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "FIRST_GROUP", 6)
    monkeypatch.setattr(searching, "FIRST_GROUPS", 6)
    monkeypatch.setattr(extensions, "BLOCK", 16)
    monkeypatch.setattr(extensions, "LEGAL_BLOCK", 32)
    policy = build_policy(ARCHITECTURES[name]).eval()
    for parameter in policy.parameters():
        parameter.data.mul_(2.0)
    index = make_index(items=40, codes=policy.settings.codes, levels=policy.settings.levels)
    with torch.no_grad():
        memory = policy.encode(Featurizer(policy.settings, index)([make_context(n, seed=n) for n in (0, 3, 30)]))
    trie = TensorTrie(index.trie) if constrained else None
    whole = beam_search(policy, memory, width, trie, prune=False)
    pruned = beam_search(policy, memory, width, trie, prune=True)
    some = torch.isfinite(whole.scores).any(0)  # padding is as wide as the user with the most needs
    torch.testing.assert_close(pruned.scores[:, : int(some.sum())], whole.scores[:, some], atol=1e-5, rtol=0)
    assert not torch.isfinite(pruned.scores[:, int(some.sum()) :]).any()
    found = torch.isfinite(pruned.scores)
    forced = policy.log_probs(memory, pruned.codes)
    torch.testing.assert_close(pruned.log_probs[found], forced[found], atol=1e-5, rtol=0)
