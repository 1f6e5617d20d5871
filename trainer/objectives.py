"""Objectives as plain functions on log-probabilities; every function returns a loss to minimise.

Log-probabilities are of whole sequences, (G,), or of each level, (G, K) with advantages (G, 1): then a ratio belongs to a
level, and the mean is over levels too. A masked candidate has advantage 0 and adds nothing.
Shape legend: G candidates of a group, K levels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

MAX_LOG_RATIO = 10.0
Objective = Literal["grpo", "ecpo", "gbpo"]


def next_token_loss(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Mean over targets of the sum over levels of -log pi (OneRec technical report, section 2.3).

    ``log_probs`` (…, K) and ``mask`` (…), True where there is a target. Zero targets give 0.
    """
    return -(log_probs.sum(-1) * mask).sum() / mask.sum().clamp(min=1)


def plain_ratio(log_prob: Tensor, log_prob_old: Tensor) -> Tensor:
    """pi / pi_old."""
    return (log_prob - log_prob_old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def early_clipped_ratio(log_prob: Tensor, log_prob_old: Tensor, eps: float, delta: float) -> Tensor:
    """pi / pi'_old with pi'_old = max(sg(pi) / (1 + eps + delta), pi_old) (OneRec technical report, ECPO)."""
    floor = log_prob.detach() - math.log1p(eps + delta)
    return (log_prob - torch.maximum(floor, log_prob_old)).clamp(min=-MAX_LOG_RATIO).exp()


def gradient_bounded_ratio(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor) -> Tensor:
    """pi / pi'_old with pi'_old = max(pi_old, sg(pi)) where A >= 0, else max(pi_old, 1 - sg(pi)) (OneRec-V2, GBPO).

    A negative one's gradient with respect to pi is at most 1 / (1 - pi), as in binary cross-entropy.
    """
    now = log_prob.detach()
    bound = torch.where(advantage >= 0, now, torch.log(-torch.expm1(now.clamp(max=-1e-7))))
    return (log_prob - torch.maximum(bound, log_prob_old)).exp()


def clipped_loss(ratio: Tensor, advantage: Tensor, eps: float) -> Tensor:
    """-mean_i min(rho_i A_i, clip(rho_i, 1 - eps, 1 + eps) A_i)."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage).mean()


def ecpo_loss(log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, eps: float, delta: float) -> Tensor:
    """Early-clipped GRPO: a negative whose probability has grown far above pi_old pushes with a bounded weight."""
    return clipped_loss(early_clipped_ratio(log_prob, log_prob_old, eps, delta), advantage, eps)


def preference_ratio(
    objective: Objective, log_prob: Tensor, log_prob_old: Tensor, advantage: Tensor, eps: float, delta: float
) -> Tensor:
    """The named objective's ratio."""
    if objective == "gbpo":
        return gradient_bounded_ratio(log_prob, log_prob_old, advantage)
    if objective == "grpo":
        return plain_ratio(log_prob, log_prob_old)
    return early_clipped_ratio(log_prob, log_prob_old, eps, delta)


def preference_loss(objective: Objective, ratio: Tensor, advantage: Tensor, eps: float) -> Tensor:
    """Minus the named objective of a group. GRPO (here without a KL term) and ECPO clip; GBPO does not, so that every sample
    keeps a gradient."""
    return -(ratio * advantage).mean() if objective == "gbpo" else clipped_loss(ratio, advantage, eps)


def dpo_loss(winner: Tensor, loser: Tensor, winner_reference: Tensor, loser_reference: Tensor, beta: float) -> Tensor:
    """-mean log sigmoid(beta [log pi(w) / pi_ref(w) - log pi(l) / pi_ref(l)]) over pairs (OneRec first version, IPA).

    All of shape (pairs,): log-probabilities by the policy and by the reference, which is not trained.
    """
    return -functional.logsigmoid(beta * ((winner - winner_reference) - (loser - loser_reference))).mean()


def format_draw(log_prob_old: Tensor, samples: int, select: Literal["random", "top"], generator: torch.Generator) -> Tensor:
    """Positions of the candidates that the format term looks at: uniform without replacement, or the most probable.

    The report's ablation is why it is not the most probable: those soon are legal, and the rest ceases to be.
    """
    if select == "top":
        return log_prob_old.topk(samples).indices
    return torch.randperm(len(log_prob_old), generator=generator)[:samples]


def format_loss(log_prob: Tensor, log_prob_old: Tensor, legal: Tensor, drawn: Tensor, eps: float, delta: float) -> Tensor:
    """ECPO on the candidates ``drawn`` of sequence log-probabilities (G,), with advantage 1 if legal and 0 if not.

    Illegal draws are discarded, not punished (OneRec technical report, section 2.4.2).
    """
    return ecpo_loss(log_prob[drawn], log_prob_old[drawn], legal[drawn].to(log_prob.dtype), eps, delta)
