"""Exact beam search over semantic IDs, free (for rollouts) or constrained to a trie (for retrieval and serving).

Shape legend: R users, B beams so far, W requested width, V codes per level, K levels, C largest number of children.
Log-probabilities are always those of the policy's full softmax, so they equal the teacher-forced ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.policy import Memory, Policy
from common.tensor_trie import TensorTrie


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
def beam_search(policy: Policy, memory: Memory, width: int, trie: TensorTrie | None = None, items: int = 1) -> Beams:
    """The ``width`` most probable semantic IDs of each user (level 1 keeps min(width, V)), or with a session decoder the
    most probable sessions of ``items`` of them.

    Exact among prefixes kept: every level scores all extensions of all kept beams before cutting to ``width``.
    """
    users = len(memory.mask)
    device = memory.mask.device
    score = torch.zeros(users, 1, device=device)
    codes = torch.empty(users, 1, 0, dtype=torch.int64, device=device)
    nodes = codes.new_zeros(users, 1)
    log_probs = torch.empty(users, 1, 0, device=device)
    cache: list[tuple[Tensor, Tensor]] = []
    for position in range(items * policy.settings.levels):
        level = position % policy.settings.levels
        logits, cache = policy.step(memory, codes[..., -1] if position else None, cache)
        level_log_probs = logits.log_softmax(-1)
        if trie is None:
            child_codes, child_nodes = _all_codes(level_log_probs), None
            candidates = level_log_probs
        else:
            child_codes, child_nodes, exists = trie.children(level, nodes if level else torch.zeros_like(nodes))
            candidates = level_log_probs.gather(-1, child_codes).masked_fill(~exists, float("-inf"))
        total = (score.unsqueeze(-1) + candidates).flatten(1)
        score, flat = total.topk(min(width, total.shape[1]))
        parent = flat // candidates.shape[-1]
        own = candidates.flatten(1).gather(1, flat)
        code = child_codes.flatten(1).gather(1, flat)
        codes = torch.cat((reorder(codes, parent), code.unsqueeze(-1)), -1)
        log_probs = torch.cat((reorder(log_probs, parent), own.unsqueeze(-1)), -1)
        if child_nodes is not None:
            nodes = child_nodes.flatten(1).gather(1, flat)
        cache = [(reorder(keys, parent), reorder(values, parent)) for keys, values in cache]
    return Beams(codes, log_probs)


def _all_codes(log_probs: Tensor) -> Tensor:
    return torch.arange(log_probs.shape[-1], device=log_probs.device).expand_as(log_probs)


def reorder(beams: Tensor, parent: Tensor) -> Tensor:
    """Rows of (R, B, …) picked by parent (R, W)."""
    rows = torch.arange(len(parent), device=parent.device).unsqueeze(1)
    return beams[rows, parent]
