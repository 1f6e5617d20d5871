"""Exact beam search over semantic IDs, free (for rollouts) or constrained to a trie (for retrieval and serving).

Shape legend: R users, B beams so far, W requested width, V codes per level, K levels, C largest number of children.
Log-probabilities are always those of the policy's full softmax, so they equal the teacher-forced ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from common.policy import Memory, Policy
from common.policy.policy import Cache
from common.tensor_trie import TensorTrie
from rollout.extensions import Best, Extensions, Legal, all_extensions

FIRST_GROUP = 256
"""Beams of a user that are decoded first, at a level; of the others only those that can still matter then."""
FIRST_GROUPS = 512
"""The same of all users together, at least: the calls for fewer take as long."""
LARGE = 2**18
"""Logits of a level (beams times codes) from which it pays to score in parts."""


@dataclass(frozen=True, slots=True)
class Beams:
    """The best sequences of each user, best first. A constrained search that ran out of legal ones pads with -inf.

    A session of several items is their levels one after another.
    """

    codes: Tensor  # (R, W, K) int64
    log_probs: Tensor  # (R, W, K) fp32, per level

    @property
    def scores(self) -> Tensor:
        """Sequence log-probabilities (R, W)."""
        return self.log_probs.sum(-1)


@torch.no_grad()
def beam_search(
    policy: Policy, memory: Memory, width: int, trie: TensorTrie | None = None, items: int = 1, *, prune: bool | None = None
) -> Beams:
    """The ``width`` most probable semantic IDs of each user (level 1 keeps min(width, V)), or with a session decoder the
    most probable sessions of ``items`` of them.

    With a trie that has a root for every user (`TensorTrie.under`) each user's search stays below their own prefixes.
    Exact among prefixes kept: every level compares all extensions of all kept beams before cutting to ``width``. With
    ``prune`` those that cannot be among the best are not scored; None: where that pays, with large codebooks on a CPU.
    """
    settings, mask = policy.settings, memory.mask
    if prune is None:
        prune = mask.device.type == "cpu" and width * settings.codes > LARGE
    users = len(mask)
    score = torch.zeros(users, 1, device=mask.device)
    codes = torch.empty(users, 1, 0, dtype=torch.int64, device=mask.device)
    nodes = roots = codes.new_zeros(users, 1) if trie is None else trie.roots(users).unsqueeze(1)
    log_probs = torch.empty(users, 1, 0, device=mask.device)
    cache: Cache = []
    last = items * settings.levels - 1
    extend = _pruned if prune else _dense
    for position in range(last + 1):
        level = position % settings.levels
        legal = None if trie is None else Legal(trie, level, nodes if level else roots.expand_as(nodes))
        best, grown = extend(policy, memory, codes, cache, score, width, level, legal)
        codes = torch.cat((reorder(codes, best.parent), best.code.unsqueeze(-1)), -1)
        log_probs = torch.cat((reorder(log_probs, best.parent), best.log_prob.unsqueeze(-1)), -1)
        score = best.score
        if best.node is not None:
            nodes = best.node
        if position < last:
            cache = [(reorder(keys, best.parent), reorder(values, best.parent)) for keys, values in side_by_side(grown)]
    return Beams(codes, log_probs)


def _dense(
    policy: Policy, memory: Memory, codes: Tensor, cache: Cache, score: Tensor, width: int, level: int, legal: Legal | None
) -> tuple[Extensions, list[Cache]]:
    """One level, every extension scored: the best, and the grown cache in as many groups of beams as were decoded."""
    hidden, grown = policy.step(memory, codes[..., -1] if codes.shape[-1] else None, cache)
    return all_extensions(policy.head(level, hidden).float(), score, width, legal), [grown]


def _pruned(
    policy: Policy, memory: Memory, codes: Tensor, cache: Cache, score: Tensor, width: int, level: int, legal: Legal | None
) -> tuple[Extensions, list[Cache]]:
    """The same from the best beams, and then from those of the others that may matter to any user."""
    grown = list[Cache]()
    best = Best(len(score), width, policy.settings.codes, constrained=legal is not None, device=score.device)
    head, start, stop = partial(policy.head, level), 0, min(max(FIRST_GROUP, FIRST_GROUPS // len(score)), score.shape[1])
    while start < stop:
        part = slice(start, stop)
        known = [(keys[:, part], values[:, part]) for keys, values in cache]
        hidden, known = policy.step(memory, codes[:, part, -1] if codes.shape[-1] else None, known)
        grown.append(known)
        inside = None if legal is None else Legal(legal.trie, legal.depth, legal.nodes[:, part])
        best.offer(head, hidden, score[:, part], start, inside)
        start, stop = stop, int((score > best.bound.unsqueeze(1)).sum(1).max())
    return best.result(), grown


def side_by_side(groups: list[Cache]) -> Cache:
    """The cache of all beams from those of groups of them."""
    blocks = zip(*groups, strict=True)
    return [(torch.cat(keys, 1), torch.cat(values, 1)) for keys, values in (zip(*block, strict=True) for block in blocks)]


def reorder(beams: Tensor, parent: Tensor) -> Tensor:
    """Rows of (R, B, …) picked by parent (R, W): of one long table, from which whole rows are copied at once."""
    users, count = beams.shape[:2]
    first = torch.arange(0, users * count, count, device=parent.device).unsqueeze(1)
    picked: Tensor = beams.flatten(0, 1).index_select(0, (first + parent).flatten()).unflatten(0, parent.shape)
    return picked
