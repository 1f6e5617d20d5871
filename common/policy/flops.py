"""What a policy's matrix products cost, counted by running it on the meta device: no formula can drift from the program.

Counted are the products of active parameters and, separately, those inside attention; lookups, norms, softmaxes and
element-wise work are not. A backward pass costs twice the forward pass, nothing is recomputed. A mixture of experts costs
its router and the experts that a token visits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.features import EventFeatures, PolicyInputs
from common.policy import Memory, Policy, build_policy
from common.policy.layers import SwiGlu
from common.policy.moe import MixtureOfExperts
from common.settings import PolicySettings

TRAINING = 3
"""A training step's floating-point operations in forward passes."""
HEADS = "heads"
"""Part to which products outside every module belong: those with tied code tables."""
_ATTENTION = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)  # what attention is made of on the meta device


@dataclass(frozen=True, slots=True)
class Work:
    """Forward floating-point operations (a multiply-add is two)."""

    weights: int = 0
    """Products of activations with parameters."""
    attention: int = 0
    """Queries with keys, and attention weights with values."""

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.attention

    def __add__(self, other: Work) -> Work:
        return Work(self.weights + other.weights, self.attention + other.attention)


@dataclass(frozen=True, slots=True)
class Flops:
    """One context with its targets, by the policy's top-level modules.

    What stands under ``decoder`` in ``context`` are the keys and values that its cross-attention makes of an encoding.
    """

    context: dict[str, Work]
    """What the context costs once."""
    targets: dict[str, Work]
    """What all its targets cost."""

    @property
    def work(self) -> Work:
        """The whole forward pass."""
        return sum([*self.context.values(), *self.targets.values()], Work())


def count_flops(settings: PolicySettings, targets: int = 1, events: int | None = None) -> Flops:
    """Forward pass of one context with ``targets`` shown items, by component.

    ``events``: how many the user has, all positive and as many again compressed; None fills every pathway.
    """
    most = (settings.short_length, settings.positive_length, settings.lifelong_length)
    inputs = meta_inputs(settings, *(length if events is None else max(1, min(events, length)) for length in most))
    policy = meta_policy(settings)
    codes = torch.zeros((1, targets, settings.levels), dtype=torch.int64, device="meta")
    memory: list[Memory] = []
    context = count(policy, lambda: memory.append(policy.encode(inputs)))
    return Flops(context, count(policy, lambda: policy.session_log_probs(memory[0], codes)))


def training_flops_per_target(
    settings: PolicySettings, targets: int, events: int | None = None, attention: bool = True
) -> float:
    """Floating-point operations of training on one of ``targets`` items that share a context; lookups are free.

    ``attention`` False counts products with parameters alone, as OneRec-V2's published figures seem to.
    """
    work = count_flops(settings, targets, events).work
    return TRAINING * (work.total if attention else work.weights) / targets


def meta_policy(settings: PolicySettings) -> Policy:
    """A policy without storage, to be counted; mixtures are replaced by what a token costs in them."""
    with torch.device("meta"):
        policy = build_policy(settings).eval().requires_grad_(False)
        for module in list(policy.modules()):
            for name, child in module.named_children():
                if isinstance(child, MixtureOfExperts):
                    setattr(module, name, _ActiveExperts(child))
    return policy


class _ActiveExperts(nn.Module):
    """The products of a token in a mixture: its router's, and those of one dense network as wide as its experts together.

    Routing itself depends on the data, which the meta device has not.
    """

    def __init__(self, mixture: MixtureOfExperts) -> None:
        super().__init__()
        _, width, hidden = mixture.up.shape
        self.router = mixture.router
        self.experts = SwiGlu(width, hidden // 2 * (mixture.settings.active + mixture.settings.shared))

    def forward(self, x: Tensor) -> Tensor:
        self.router(x)
        out: Tensor = self.experts(x)
        return out


class _Call(nn.Module):
    """A call as a module's forward pass, which gives all of the policy's modules their names below it."""

    def __init__(self, policy: Policy, call: Callable[[], object]) -> None:
        super().__init__()
        self.policy, self.call = policy, call

    def forward(self) -> None:
        self.call()


def count(policy: Policy, call: Callable[[], object]) -> dict[str, Work]:
    """Operations of a call by the policy's top-level modules. Only the outermost module that runs is counted."""
    with FlopCounterMode(display=False) as counter:
        _Call(policy, call)()
    counts = {name: _work(by_operator) for name, by_operator in counter.get_flop_counts().items()}
    whole = counts.pop("Global", Work())
    parts: dict[str, Work] = defaultdict(Work)
    for name, work in counts.items():
        root, _, inner = name.partition(".policy.")
        if inner and not any(name.startswith(f"{other}.") for other in counts if other not in (name, root)):
            parts[inner.split(".")[0]] += work
    named = sum(parts.values(), Work())
    parts[HEADS] += Work(whole.weights - named.weights, whole.attention - named.attention)
    return {name: work for name, work in parts.items() if work.total}


def _work(by_operator: dict[object, int]) -> Work:
    attention = sum(by_operator.get(operator, 0) for operator in _ATTENTION)
    return Work(sum(by_operator.values()) - attention, attention)


def meta_inputs(settings: PolicySettings, short: int, positive: int, lifelong: int) -> PolicyInputs:
    """Inputs of one context, without storage, whose pathways have these lengths."""

    def pathway(size: int) -> EventFeatures:
        ids = torch.zeros((1, size), dtype=torch.int64, device="meta")
        columns: dict[str, Tensor] = dict.fromkeys(EventFeatures.__dataclass_fields__, ids)
        return EventFeatures(
            **columns
            | {
                "tags": ids.unsqueeze(-1),
                "tag_weight": ids.unsqueeze(-1).float(),
                "sids": ids.unsqueeze(-1).expand(-1, -1, settings.levels),
                "leaf_size": ids.float(),
                "mask": ids.bool(),
            }
        )

    static = torch.zeros((1, 1 + len(settings.static_fields)), dtype=torch.int64, device="meta")
    leaves = pathway(lifelong) if settings.lifelong_length else None
    return PolicyInputs(static, pathway(short), pathway(positive), leaves)
