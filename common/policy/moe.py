"""Mixture of experts with loss-free balancing, and what one pass through a policy tells about its experts' loads.

Shape legend: N tokens, D width, E routed experts, A of them active per token, S shared experts, H expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.policy.layers import linear
from common.settings import MoeSettings, PolicySettings


def expert_width(width: int) -> int:
    """2/3 * 4 * D rounded up to a multiple of 128 (OneRec technical report): 2816 for D = 1024."""
    return -(-8 * width // (3 * 128)) * 128


def mixture_at(policy: PolicySettings, stack: Literal["encoder", "decoder"], block: int) -> MixtureOfExperts | None:
    """The FFN of a stack's ``block`` (from 0) where the settings put a mixture there; None where it is dense."""
    moe = policy.moe
    blocks = moe.encoder_blocks if stack == "encoder" else moe.decoder_blocks
    return MixtureOfExperts(policy.d_model, moe) if moe.experts and block in blocks else None


class MixtureOfExperts(nn.Module):
    """A drop-in for a dense FFN: each token goes through its A best of E SwiGLU experts, and all through S shared ones.

    DeepSeek-V3's routing (technical report, equations 12-16): experts are selected by sigmoid affinity plus ``bias``, and
    weighed by the affinities alone, normalised over the selected. ``bias`` has no gradient: `balance` moves it.
    """

    bias: Tensor

    def __init__(self, width: int, settings: MoeSettings) -> None:
        super().__init__()
        self.settings = settings
        hidden, experts = settings.width or expert_width(width), settings.experts + settings.shared
        self.router = linear(width, settings.experts)
        self.up = nn.Parameter(torch.randn(experts, width, 2 * hidden) * width**-0.5)  # gates beside values
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)
        self.register_buffer("bias", torch.zeros(settings.experts))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        tokens = x.flatten(0, -2)
        chosen, gates, affinity = self.route(tokens)
        if routing := Routing.current():
            routing.record(self, chosen, affinity, x.shape[:-1])
        shared = torch.arange(self.settings.shared, device=x.device) + self.settings.experts
        chosen = torch.cat((chosen, shared.expand(len(tokens), -1)), -1)
        gates = functional.pad(gates, (0, self.settings.shared), value=1.0)
        out = (self._experts(tokens, chosen) * gates.unsqueeze(-1)).sum(1)
        return out.to(x.dtype).view_as(x)

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, D) -> selected experts (N, A), their gates (N, A), which sum to 1, and affinities (N, E), in fp32."""
        with torch.autocast(tokens.device.type, enabled=False):
            # In logarithms: affinities that underflow must not be divided by their sum.
            log_affinity = functional.logsigmoid(functional.linear(tokens.float(), self.router.weight.float()))
        affinity = log_affinity.exp()
        chosen = (affinity.detach() + self.bias).topk(self.settings.active).indices
        return chosen, log_affinity.gather(-1, chosen).softmax(-1), affinity

    def _experts(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """What each token's experts (N, A + S) make of it (N, A + S, D): sort by expert, multiply by group, sort back."""
        order = chosen.flatten().argsort(stable=True)
        ends = torch.searchsorted(chosen.flatten()[order], torch.arange(len(self.up), device=chosen.device), right=True)
        gate, value = _grouped(tokens[order // chosen.shape[1]], self.up, ends.int()).chunk(2, -1)
        out = _grouped(functional.silu(gate) * value, self.down, ends.int())
        return out[order.argsort()].view(*chosen.shape, -1)

    @torch.no_grad()
    def balance(self, load: Tensor) -> None:
        """Loss-free balancing, once per optimizer step: b_i += gamma * sign(mean load - load_i), for tokens per expert (E,)
        (Wang et al. 2024, "Auxiliary-loss-free load balancing strategy for mixture-of-experts", algorithm 1)."""
        self.bias += self.settings.gamma * (load.sum() - len(load) * load).sign()


def _grouped(tokens: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows (M, K) sorted by group, group i ending before row ``ends[i]``, times that group's matrix of (E, K, L) -> (M, L).

    One operation on every device: torch runs it as one kernel on recent GPUs and group by group elsewhere.
    """
    if torch.is_autocast_enabled(tokens.device.type):  # autocast does not know this operation
        dtype = torch.get_autocast_dtype(tokens.device.type)
        tokens, weight = tokens.to(dtype), weight.to(dtype)
    return functional.grouped_mm(tokens, weight, offs=ends)


class Routing:
    """What the mixtures did in the passes made inside ``with routing:`` by this thread.

    Only such passes count: generation, evaluation and reinforcement leave the balance alone. Being an object of the pass
    and no state of the module, it lets threads share a policy, and its sums do not depend on their order.
    """

    def __init__(self) -> None:
        self.loads: dict[MixtureOfExperts, Tensor] = {}
        """Tokens that selected each expert (E,), int64."""
        self.auxiliary_loss: Tensor | float = 0.0
        """Sum over mixtures, to be added to the objective; 0 unless the settings balance by it."""

    @staticmethod
    def current() -> Routing | None:
        """The one that records this thread's passes, if any."""
        return _current.get()

    def __enter__(self) -> Routing:
        self._before: Token[Routing | None] = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _current.reset(self._before)

    def record(self, mixture: MixtureOfExperts, chosen: Tensor, affinity: Tensor, shape: torch.Size) -> None:
        """Count the selection (N, A) by affinities (N, E) of N = prod(``shape``) tokens, padding left out."""
        experts = affinity.shape[-1]
        present = _present.get()
        if present is None:
            counted = torch.ones(len(chosen), dtype=torch.int64, device=chosen.device)
        else:
            counted = present.view(*present.shape, *[1] * (len(shape) - present.ndim)).expand(shape).flatten().long()
        load = counted.new_zeros(experts).index_add_(0, chosen.flatten(), counted.repeat_interleave(chosen.shape[1]))
        self.loads[mixture] = self.loads[mixture] + load if mixture in self.loads else load
        if mixture.settings.balancing == "auxiliary":
            count = counted.sum().clamp(min=1)
            probability = (affinity / affinity.sum(-1, keepdim=True) * counted.unsqueeze(-1)).sum(0) / count
            alignment = (load / (count * chosen.shape[1]) * probability).sum()
            # Fedus et al. 2021, "Switch Transformers", equation 4: alpha * N * sum_i f_i P_i, 1 * alpha in balance.
            self.auxiliary_loss = self.auxiliary_loss + mixture.settings.alpha * experts * alignment


_current: ContextVar[Routing | None] = ContextVar("routing", default=None)
_present: ContextVar[Tensor | None] = ContextVar("present", default=None)


@contextmanager
def present_tokens(present: Tensor | None) -> Iterator[None]:
    """Inside, mixtures count as load only tokens (R, …) where ``present`` (leading axes of theirs) is True; None: all."""
    before = _present.set(present)
    try:
        yield
    finally:
        _present.reset(before)


def mixtures_of(policy: nn.Module) -> list[MixtureOfExperts]:
    """All mixtures of a policy, in an order that is the same in every process."""
    return [module for module in policy.modules() if isinstance(module, MixtureOfExperts)]


def all_loads(
    mixtures: list[MixtureOfExperts], routings: list[Routing], total: Callable[[Tensor], Tensor] = lambda load: load
) -> dict[MixtureOfExperts, Tensor]:
    """Tokens per expert of each mixture, summed over the passes of one optimizer step and, by ``total``, over ranks."""
    loads = {mixture: torch.zeros_like(mixture.bias, dtype=torch.int64) for mixture in mixtures}
    for routing in routings:
        for mixture, load in routing.loads.items():
            loads[mixture] += load
    return {mixture: total(load) for mixture, load in loads.items()}


def balance(
    mixtures: list[MixtureOfExperts], routings: list[Routing], total: Callable[[Tensor], Tensor] = lambda load: load
) -> float | None:
    """After an optimizer step: move the biases where the settings balance by them.

    Returns:
        The worst mixture's violation, the largest load over the mean minus 1 (Wang et al. 2024, MaxVio); None where no
        mixture recorded anything.
    """
    loads = {mixture: load for mixture, load in all_loads(mixtures, routings, total).items() if load.any()}
    for mixture, load in loads.items():
        if mixture.settings.balancing == "loss_free":
            mixture.balance(load)
    return max((max_violation(load) for load in loads.values()), default=None)


def max_violation(load: Tensor) -> float:
    """The largest of the loads (E,) over their mean, minus 1; 0 where all are 0."""
    return float(load.max() * len(load) / load.sum().clamp(min=1)) - 1 if load.any() else 0.0
