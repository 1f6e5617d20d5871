"""The policy's optimizer: AdamW on dense weights, row-wise Adagrad at its own rate on the id tables.

With several ranks each holds the moments of its share of the dense weights and updates only these (ZeRO stage 1: Rajbhandari
et al., 2020). The tables' row sums, one number for each row, are the same on every rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.gradients import clip_gradients
from trainer.parallel import Ranks
from trainer.row_wise import ROW_SUM, RowWiseAdagrad, row_tables

BETAS = (0.9, 0.95)
MOMENTS = ("exp_avg", "exp_avg_sq")


class PolicyOptimizer:
    """AdamW(0.9, 0.95) over the dense weights of a policy, decay on matrices only; row-wise Adagrad over its id tables."""

    def __init__(self, policy: nn.Module, learning_rate: float, sparse_learning_rate: float, weight_decay: float) -> None:
        self.policy = policy
        self.tables = row_tables(policy)
        self.dense = {name: weight for name, weight in policy.named_parameters() if name not in self.tables}
        self.groups = [{n: w for n, w in self.dense.items() if (w.ndim > 1) == matrix} for matrix in (True, False)]
        """Dense weights by name: matrices, vectors."""
        self.rate, self.sparse_rate = learning_rate, sparse_learning_rate
        self.decays = (weight_decay, 0.0)
        self.row_wise = RowWiseAdagrad(self.tables.values(), sparse_learning_rate)
        self.adamw = self._over([list(group.values()) for group in self.groups])

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.policy.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update all weights by their gradients, which are the same on every rank."""
        self.row_wise.step()
        self.adamw.step()

    def scale_learning_rate(self, factor: float) -> None:
        """Set every rate to ``factor`` times its base."""
        for optimizer, rate in ((self.row_wise, self.sparse_rate), (self.adamw, self.rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def tensors(self) -> dict[str, Tensor]:
        """The state as flat named tensors (``<parameter>.<slot>``), for a checkpoint; the same for any number of ranks."""
        found = self._row_sums()
        for name, parameter in self.dense.items():
            for slot, value in self.adamw.state.get(parameter, {}).items():
                found[f"{name}.{slot}"] = torch.as_tensor(value).detach()
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; a parameter without stored slots starts fresh."""
        self._load_row_sums(tensors)
        for name, parameter in self.dense.items():
            slots: dict[str, Any] = {}
            for slot in ("step", *MOMENTS):
                if f"{name}.{slot}" in tensors:
                    slots[slot] = tensors[f"{name}.{slot}"].clone()
            if slots:
                self.adamw.state[parameter] = slots

    def _row_sums(self) -> dict[str, Tensor]:
        return {f"{name}.{ROW_SUM}": self.row_wise.state[table][ROW_SUM] for name, table in self.tables.items()}

    def _load_row_sums(self, tensors: dict[str, Tensor]) -> None:
        for name, sums in self._row_sums().items():
            if name in tensors:
                sums.copy_(tensors[name])

    def _over(self, weights: list[list[nn.Parameter]]) -> torch.optim.AdamW:
        groups = [
            {"params": params, "lr": self.rate, "weight_decay": decay}
            for params, decay in zip(weights, self.decays, strict=True)
        ]
        return torch.optim.AdamW(groups, betas=BETAS, fused=True)


class ShardedOptimizer(PolicyOptimizer):
    """The same updates, with every group's dense weights in one flat tensor of which each rank owns an equal part.

    A dense weight without a gradient on all ranks is updated as with gradient zero, since parts know no parameters.
    """

    def __init__(
        self, policy: nn.Module, learning_rate: float, sparse_learning_rate: float, weight_decay: float, ranks: Ranks
    ) -> None:
        super().__init__(policy, learning_rate, sparse_learning_rate, weight_decay)
        self.ranks = ranks
        self.flat = [_flattened(list(group.values()), ranks.world) for group in self.groups]
        self.shards = [nn.Parameter(self._own(flat).clone()) for flat in self.flat]
        self.adamw = self._over([[shard] for shard in self.shards])

    @torch.no_grad()
    def step(self) -> None:
        """Update this rank's part, then fetch the others'."""
        for group, flat, shard in zip(self.groups, self.flat, self.shards, strict=True):
            gradient = torch.zeros_like(flat)
            for parameter, part in zip(group.values(), _parts(group, gradient), strict=True):
                if parameter.grad is not None:
                    part.copy_(parameter.grad)
            shard.grad = self._own(gradient)
        self.row_wise.step()
        self.adamw.step()
        for flat, shard in zip(self.flat, self.shards, strict=True):
            shard.grad = None
            self.ranks.gather(flat, shard.detach())

    def tensors(self) -> dict[str, Tensor]:
        """As for one rank; every rank must call it, and gets all of it."""
        found = self._row_sums()
        for group, flat, shard in zip(self.groups, self.flat, self.shards, strict=True):
            state = self.adamw.state.get(shard, {})
            for slot in MOMENTS if state else ():
                whole = torch.empty_like(flat)
                self.ranks.gather(whole, state[slot])
                found |= {f"{name}.{slot}": part.clone() for name, part in zip(group, _parts(group, whole), strict=True)}
            found |= {f"{name}.step": state["step"].clone() for name in group if state}
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`, from any number of ranks. The weights must have been loaded before."""
        self._load_row_sums(tensors)
        for group, flat, shard in zip(self.groups, self.flat, self.shards, strict=True):
            shard.data.copy_(self._own(flat))
            steps = [tensors[f"{name}.step"] for name in group if f"{name}.step" in tensors]
            if not steps:
                continue
            state: dict[str, Any] = {"step": steps[0].clone()}
            for slot in MOMENTS:
                whole = torch.zeros_like(flat)
                for name, part in zip(group, _parts(group, whole), strict=True):
                    if f"{name}.{slot}" in tensors:
                        part.copy_(tensors[f"{name}.{slot}"])
                state[slot] = self._own(whole).clone()
            self.adamw.state[shard] = state

    def _own(self, flat: Tensor) -> Tensor:
        return flat.chunk(self.ranks.world)[self.ranks.rank]


def build_optimizer(
    policy: nn.Module, learning_rate: float, sparse_learning_rate: float, weight_decay: float, ranks: Ranks | None = None
) -> PolicyOptimizer:
    """The optimizer for one rank, or this rank's of several."""
    if ranks is None or ranks.world == 1:
        return PolicyOptimizer(policy, learning_rate, sparse_learning_rate, weight_decay)
    return ShardedOptimizer(policy, learning_rate, sparse_learning_rate, weight_decay, ranks)


def apply_gradients(optimizer: PolicyOptimizer, ranks: Ranks, clip_norm: float) -> None:
    """One update by the sum of all ranks' gradients, scaled so that their norm is at most ``clip_norm``."""
    ranks.sum_gradients(optimizer.dense.values())
    ranks.sum_rows(optimizer.tables.values())
    clip_gradients(optimizer.policy.parameters(), clip_norm)
    optimizer.step()


@torch.no_grad()
def _flattened(parameters: list[nn.Parameter], world: int) -> Tensor:
    """One tensor, padded to a multiple of ``world``, that holds the parameters; these become views of it."""
    size = sum(parameter.numel() for parameter in parameters)
    flat = parameters[0].new_zeros(-(-size // world) * world) if parameters else torch.zeros(0)
    start = 0
    for parameter in parameters:
        part = flat[start : start + parameter.numel()].view_as(parameter)
        part.copy_(parameter)
        parameter.data = part
        start += parameter.numel()
    return flat


def _parts(group: dict[str, nn.Parameter], flat: Tensor) -> list[Tensor]:
    """The pieces of a flat tensor that stand for a group's parameters, in their shapes."""
    sizes = [parameter.numel() for parameter in group.values()]
    pieces = flat[: sum(sizes)].split(sizes)
    return [piece.view_as(parameter) for piece, parameter in zip(pieces, group.values(), strict=True)]
