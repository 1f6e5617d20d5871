"""What is done to gradients before an optimizer sees them, be they dense or the touched rows of a table (sparse)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def gradient_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """The Euclidean norm of all gradients together; 0 where there are none."""
    present = [g.coalesce().values() if g.is_sparse else g for g in gradients if g is not None]
    return torch.nn.utils.get_total_norm(present)


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> None:
    """Scale all gradients so that their norm is at most ``limit`` (torch's own clipping knows no sparse ones)."""
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter in owners:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    gradients = [parameter.grad for parameter in owners]
    factor = (limit / (gradient_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        if gradient is not None:
            gradient.mul_(factor)
