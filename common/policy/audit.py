"""Where a policy's parameters are, for comparison with the sizes that the OneRec reports print."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from common.policy.moe import mixtures_of
from common.policy.policy import Policy

Component = Literal["features", "lifelong", "codes", "pathways", "encoder", "decoder"]
PREFIXES: list[tuple[str, Component]] = [
    ("codes.", "codes"),
    ("event.", "features"),
    ("user.", "features"),
    ("static.", "features"),
    ("lifelong.", "lifelong"),
    ("encoder", "encoder"),
    ("decoder", "decoder"),
    ("head", "decoder"),
    ("widen", "decoder"),
]
"""First part of a parameter's name -> its component; the rest (MLPs, positions, begin token) belongs to the pathways."""
INPUTS_AND_OUTPUTS = ("codes.", "event.", "user.", "static.", "positions.", "begin", "level", "heads.")
"""Prefixes of the tables and output matrices that the sizes of OneRec-V2 leave out."""


def parameter_audit(policy: Policy) -> dict[Component, int]:
    """Parameters by component; they add up to all of the policy's, a table that several modules share counted once."""
    counts: Counter[Component] = Counter()
    for name, parameter in policy.named_parameters():
        matching = [component for prefix, component in PREFIXES if name.startswith(prefix)]
        counts[matching[0] if matching else "pathways"] += parameter.numel()
    return dict(counts)


def nominal_size(policy: Policy) -> int:
    """The size by which the OneRec technical report's table 1 names its models, as its numbers imply: everything but the
    tables of ids and features and the queries that read the lifelong history."""
    return sum(count for component, count in parameter_audit(policy).items() if component not in {"features", "lifelong"})


def inner_size(policy: Policy) -> int:
    """The size by which the OneRec-V2 technical report's table 5 names its models, as its numbers imply: all parameters but
    embeddings and output heads."""
    return sum(p.numel() for name, p in policy.named_parameters() if not name.startswith(INPUTS_AND_OUTPUTS))


def active_size(policy: Policy) -> int:
    """`inner_size` less the routed experts that a token does not visit."""
    idle = 0
    for mixture in mixtures_of(policy):
        expert = mixture.up[0].numel() + mixture.down[0].numel()
        idle += expert * (mixture.settings.experts - mixture.settings.active)
    return inner_size(policy) - idle
