"""Objectives as plain functions on log-probabilities; every function returns a loss to minimise.

Shape legend: G candidates of a group, K levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = 10.0


def next_token_loss(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Mean over targets of the sum over levels of -log pi (OneRec technical report, section 2.3).

    ``log_probs`` (…, K) and ``mask`` (…), True where there is a target. Zero targets give 0.
    """
    return -(log_probs.sum(-1) * mask).sum() / mask.sum().clamp(min=1)


def early_clipped_ratio(log_prob: Tensor, log_prob_old: Tensor, eps: float, delta: float) -> Tensor:
    """pi / pi'_old with pi'_old = max(sg(pi) / (1 + eps + delta), pi_old) (OneRec technical report, ECPO)."""
    floor = log_prob.detach() - math.log1p(eps + delta)
    return (log_prob - torch.maximum(floor, log_prob_old)).clamp(min=-MAX_LOG_RATIO).exp()


def ecpo_loss(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, eps: float, delta: float) -> Tensor:
    """-mean_i min(rho_i A_i, clip(rho_i, 1 - eps, 1 + eps) A_i) over sequences, with the early-clipped ratio rho.

    All arguments (G,): sequence log-probabilities and advantages; a masked candidate has advantage 0 and adds nothing.
    """
    ratio = early_clipped_ratio(log_prob, log_prob_old, eps, delta)
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage).mean()


def format_loss(
    log_prob: Tensor, log_prob_old: Tensor, legal: Tensor, samples: int, eps: float, delta: float, generator: torch.Generator
) -> Tensor:
    """ECPO on ``samples`` candidates drawn uniformly without replacement, with advantage 1 if legal and 0 if not.

    Illegal draws are discarded, not punished (OneRec technical report, section 2.4.2). All tensors (G,).
    """
    drawn = torch.randperm(len(legal), generator=generator)[:samples]
    return ecpo_loss(log_prob[drawn], log_prob_old[drawn], legal[drawn].to(log_prob.dtype), eps, delta)
