"""Independent draws of semantic IDs from a truncated policy (top-k, then top-p), where beam search gives the best ones.

Shape legend: R users, G draws, V codes per level, K levels, k codes left by top-k.
Log-probabilities are those of the policy's full softmax, as a beam search's are, and not of the truncated one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.policy import Memory, Policy
from rollout.beam_search import Beams, reorder


@dataclass(frozen=True, slots=True)
class Truncation:
    """What draws are taken from: at each level the ``top_k`` most probable codes, and of these the fewest that make up
    ``top_p`` of their probability."""

    top_k: int
    top_p: float


@torch.no_grad()
def sample(policy: Policy, memory: Memory, uniforms: Tensor, truncation: Truncation) -> Beams:
    """One draw for each row of ``uniforms`` (R, G, K), numbers in [0, 1); draws may coincide, and come in no order."""
    users, draws, levels = uniforms.shape
    codes = torch.empty(users, draws, 0, dtype=torch.int64, device=uniforms.device)
    log_probs = uniforms.new_empty(users, draws, 0)
    cache: list[tuple[Tensor, Tensor]] = []
    for level in range(levels):
        hidden, cache = policy.step(memory, codes[..., -1] if level else None, cache)
        if not level:  # all draws of a user begin alike
            first = codes.new_zeros(users, draws)
            cache = [(reorder(keys, first), reorder(values, first)) for keys, values in cache]
        level_log_probs = policy.head(level, hidden).float().log_softmax(-1).expand(-1, draws, -1)
        code = draw(level_log_probs, uniforms[..., level], truncation)
        codes = torch.cat((codes, code.unsqueeze(-1)), -1)
        log_probs = torch.cat((log_probs, level_log_probs.gather(-1, code.unsqueeze(-1))), -1)
    return Beams(codes, log_probs)


def draw(log_probs: Tensor, uniforms: Tensor, truncation: Truncation) -> Tensor:
    """Codes (…) drawn from truncated distributions (…, V): where their distribution functions pass ``uniforms`` (…)."""
    kept, codes = log_probs.topk(min(truncation.top_k, log_probs.shape[-1]))
    probability = kept.softmax(-1)
    before = probability.cumsum(-1) - probability
    cumulative = probability.masked_fill(before >= truncation.top_p, 0).cumsum(-1)
    at = torch.searchsorted(cumulative, (uniforms * cumulative[..., -1]).unsqueeze(-1), right=True)
    return codes.gather(-1, at.clamp(max=codes.shape[-1] - 1)).squeeze(-1)
