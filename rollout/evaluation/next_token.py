"""How well a policy predicts the semantic IDs of what was shown: loss and accuracy of every level, teacher-forced.

Shape legend: R users, T targets of a user, K levels, V codes per level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rollout.engine import GenerationEngine
from rollout.evaluation.metrics import FloatArray
from rollout.evaluation.protocol import EvaluationSet, EvaluationUser


@dataclass(frozen=True, slots=True)
class NextTokenFigures:
    """Means over ``targets`` impressions, by level (K,): loss in nats, and how often the likeliest code was the right one.

    The OneRec technical report adds the levels' losses up, OneRec-V2 takes their mean: compare like with like.
    """

    loss: FloatArray
    accuracy: FloatArray
    targets: int


@torch.no_grad()
def next_token_figures(engine: GenerationEngine, data: EvaluationSet, batch: int = 128) -> NextTokenFigures | None:
    """Figures over all users' ``next_tokens``, contexts frozen, a level's prefix being the true one; None without any.

    A session-wise policy reads a user's impressions as sessions of consecutive items.
    """
    policy = engine.policy
    device = next(policy.parameters()).device
    users = [user for user in data.users if len(user.next_tokens)]
    loss, hits, count = np.zeros(policy.settings.levels), np.zeros(policy.settings.levels), 0
    for start in range(0, len(users), batch):
        part = users[start : start + batch]
        codes, mask = (tensor.to(device) for tensor in _targets(part, engine))
        memory = policy.encode(engine.featurizer([u.context for u in part]).to(device))
        logits, true = policy.session_logits(memory, codes, mask)[mask], codes[mask]
        own = logits.log_softmax(-1).gather(-1, true.unsqueeze(-1)).squeeze(-1)
        loss -= own.double().sum(0).cpu().numpy()
        hits += (logits.argmax(-1) == true).sum(0).cpu().numpy()
        count += len(true)
    return NextTokenFigures(loss / count, hits / count, count) if count else None


def _targets(users: list[EvaluationUser], engine: GenerationEngine) -> tuple[Tensor, Tensor]:
    """Codes (R, T, K), and which of the targets there are (R, T)."""
    longest = max(len(u.next_tokens) for u in users)
    rows = np.zeros((len(users), longest), np.int64)
    mask = np.zeros((len(users), longest), np.bool_)
    for r, user in enumerate(users):
        rows[r, : len(user.next_tokens)] = user.next_tokens
        mask[r, : len(user.next_tokens)] = True
    return torch.from_numpy(engine.index.sids[rows].astype(np.int64)), torch.from_numpy(mask)
