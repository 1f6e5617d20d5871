"""The policy's optimizer: AdamW on dense weights, Adam without decay at its own rate on the sparse tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SPARSE_TABLES = ("event.vid.", "event.author.", "event.tag.", "user.", "static.")
"""Prefixes of the id tables; the code tables are dense, since every softmax touches all their rows."""


def build_optimizer(
    policy: nn.Module, learning_rate: float, sparse_learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW(0.9, 0.95); weight decay on dense matrices only. ``base_lr`` in each group is what a schedule scales."""
    sparse: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in policy.named_parameters():
        chosen = sparse if name.startswith(SPARSE_TABLES) else matrices if parameter.ndim > 1 else vectors
        chosen.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": sparse, "lr": sparse_learning_rate, "weight_decay": 0.0},
        {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
    ]
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def scale_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its base."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def optimizer_tensors(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat named tensors (``<parameter>.<slot>``), for a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in policy.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{slot}"] = torch.as_tensor(value).detach()
    return tensors


def load_optimizer_tensors(policy: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; a parameter without stored slots starts fresh."""
    for name, parameter in policy.named_parameters():
        slots: dict[str, Any] = {}
        for slot in ("step", "exp_avg", "exp_avg_sq"):
            if f"{name}.{slot}" in tensors:
                slots[slot] = tensors[f"{name}.{slot}"].clone()
        if slots:
            optimizer.state[parameter] = slots
