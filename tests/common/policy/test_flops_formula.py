"""The formula is the count, at lengths far from those it was drawn through."""

from __future__ import annotations

import pytest
import torch

from common.features import Featurizer, PolicyInputs
from common.policy import Memory
from common.policy.flops import Work, count, meta_inputs, meta_policy
from common.policy.flops_formula import flops_formula
from common.settings import PolicySettings
from tests.factories import ARCHITECTURES, make_context, make_index


def inputs_of(settings: PolicySettings, *events: int) -> PolicyInputs:
    return Featurizer(settings, make_index())([make_context(n, seed=n) for n in events])


def counted(settings: PolicySettings, inputs: PolicyInputs, targets: int, together: bool) -> int:
    """One context of the same lengths, run on the meta device."""
    lifelong = 0 if inputs.lifelong is None else int(inputs.lifelong.mask.sum())
    shape = meta_inputs(settings, int(inputs.short.mask.sum()), int(inputs.positive.mask.sum()), lifelong)
    policy = meta_policy(settings)
    codes = torch.zeros((1, targets, settings.levels), dtype=torch.int64, device="meta")
    memory: list[Memory] = []
    context = count(policy, lambda: memory.append(policy.encode(shape)))
    log_probs = policy.session_log_probs if together else policy.log_probs
    return sum([*context.values(), *count(policy, lambda: log_probs(memory[0], codes)).values()], Work()).total


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_real_contexts_cost_what_is_counted_without_their_padding(name: str, together: bool) -> None:
    settings = ARCHITECTURES[name].model_copy(update={"short_length": 7, "positive_length": 9})
    shapes = {0: 6, 2: 1, 40: 2}  # events of a context -> its targets
    expected = sum(counted(settings, inputs_of(settings, events), n, together) for events, n in shapes.items())
    forward = flops_formula(settings).forward(inputs_of(settings, *shapes), list(shapes.values()), together)
    assert forward == expected


def test_a_session_cut_in_two_costs_its_two_parts() -> None:
    settings = ARCHITECTURES["session"]
    formula, inputs = flops_formula(settings), inputs_of(settings, 20)
    nothing, two, three, five = (formula.forward(inputs, [n]) for n in (0, 2, 3, 5))
    assert five - nothing == (two - nothing) + (three - nothing)
    assert three - nothing > formula.forward(inputs, [3], together=False) - nothing
