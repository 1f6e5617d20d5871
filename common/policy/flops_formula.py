"""The operations of any batch without counting it: a polynomial in the lengths, drawn through counts of the shortest ones.

A context's cost has degree two in its events (an encoder's attention over itself) and one in the leaves of its lifelong
history; a target's has degree one in both. Four and three counts on the meta device therefore fix them exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.features import PolicyInputs
from common.policy.flops import Work, count, meta_inputs, meta_policy
from common.policy.policy import Policy
from common.settings import PolicySettings

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Polynomial:
    """``base + first n + second n (n - 1) / 2 + leaf m`` for n events and m leaves."""

    base: int
    first: int
    second: int
    leaf: int

    def __call__(self, events: IntArray, leaves: IntArray) -> IntArray:
        """Values for contexts (R,) with these numbers of events and leaves."""
        return self.base + self.first * events + self.second * (events * (events - 1) // 2) + self.leaf * leaves


@dataclass(frozen=True, slots=True)
class FlopsFormula:
    """Forward floating-point operations as `count_flops` counts them; padding costs nothing, being no work of the model."""

    context: Polynomial
    items: list[Polynomial]
    """What 1, 2, … items that are decoded together cost; a point-wise policy decodes one."""

    def forward(self, inputs: PolicyInputs, targets: Sequence[int], together: bool = True) -> int:
        """Operations of R contexts with so many targets each (R of them).

        ``together``: they were shown together, in their order, as in `Policy.session_log_probs`; else they are candidates
        for the next item, as in `Policy.log_probs`.
        """
        events = _lengths(inputs.short.mask) + _lengths(inputs.positive.mask)
        leaves = np.zeros_like(events) if inputs.lifelong is None else _lengths(inputs.lifelong.mask)
        wanted = np.asarray(targets, np.int64)
        whole = self.items[-1] if together else self.items[0]
        size = len(self.items) if together else 1
        cost = self.context(events, leaves) + wanted // size * whole(events, leaves)
        for left, polynomial in enumerate(self.items[: size - 1], 1):
            cost += np.where(wanted % size == left, polynomial(events, leaves), 0)
        return int(cost.sum())


def flops_formula(settings: PolicySettings) -> FlopsFormula:
    """The formula of a policy with these settings; it is made once per process, in some tenths of a second."""
    return _formula(settings.model_dump_json())


@lru_cache
def _formula(settings_json: str) -> FlopsFormula:
    settings = PolicySettings.model_validate_json(settings_json)
    policy = meta_policy(settings)
    sessions = settings.session_items if settings.architecture == "session_decoder" else 1
    return FlopsFormula(
        _polynomial(settings, lambda inputs: _total(policy, lambda: policy.encode(inputs))),
        [_polynomial(settings, _of_items(policy, items)) for items in range(1, sessions + 1)],
    )


def _of_items(policy: Policy, items: int) -> Callable[[PolicyInputs], int]:
    codes = torch.zeros((1, items, policy.settings.levels), dtype=torch.int64, device="meta")

    def of(inputs: PolicyInputs) -> int:
        memory = policy.encode(inputs)
        return _total(policy, lambda: policy.session_log_probs(memory, codes))

    return of


def _polynomial(settings: PolicySettings, cost: Callable[[PolicyInputs], int]) -> Polynomial:
    """Events cost the same on the short and the positive pathway, so that (0, 0), (1, 0) and (1, 1) of them are enough."""
    none, one, two = (cost(meta_inputs(settings, short, positive, 0)) for short, positive in ((0, 0), (1, 0), (1, 1)))
    leaf = cost(meta_inputs(settings, 0, 0, 1)) - none if settings.lifelong_length else 0
    return Polynomial(none, one - none, two - 2 * one + none, leaf)


def _total(policy: Policy, call: Callable[[], object]) -> int:
    return sum(count(policy, call).values(), Work()).total


def _lengths(mask: Tensor) -> IntArray:
    lengths: IntArray = mask.sum(1).cpu().numpy()
    return lengths
