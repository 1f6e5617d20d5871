"""Where ECPO's negatives squeeze legal items out, GBPO's do not (OneRec-V2, section on GBPO).

The smallest policy there is: a free logit for every node of a tree of three levels of 16 codes, 1 % of its leaves legal,
with mass by their popularity, and random mass on illegal ones. Each step takes the 64 most probable leaves, scores the
legal ones by a fixed taste, and moves the logits by the negative advantages alone, with ratio 1: what they push away goes
to the most probable codes of a level. (Positive advantages hide this: only legal leaves have them.) What counts is what
becomes of the innocent, the legal leaves that are liked better than the middle one; legality itself is a coin's throw, since
the leaf that absorbs everything may be a legal one. Seeds are other trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Claim
from benchmarks.runs import SEEDS
from benchmarks.simulated_sessions import Say
from deploy.experiments.trials import ExperimentResult
from trainer.advantages import group_advantages
from trainer.objectives import Objective, format_draw, format_loss, preference_loss, preference_ratio

NAME = "tr16"
CODES, LEVELS = 16, 3
LEGAL = CODES**LEVELS // 100
GROUP, STEPS, RATE = 64, 300, 1.0
SMOOTHING = 0.6
"""Share of the start's probability that is on illegal leaves, at random."""
EPS, DELTA = 0.2, 0.1
FORMAT_SAMPLES = 3
ECPO, GBPO, RANDOM = ARMS = ("ecpo", "gbpo", "ecpo, random legal ones rewarded")
PAPER = {"legal probability under negatives": {"ECPO": "collapses", "GBPO": "keeps"}}


@dataclass
class Course:
    """What every step measured."""

    legal_mass: list[float]
    """Probability of all legal leaves."""
    innocent: list[float]
    """Probability of the better liked half of them over what it was at the start, median."""
    gradient_norm: list[float]


def run(cache: Path, on_progress: Say) -> ExperimentResult:  # noqa: ARG001 - nothing is worth keeping
    """Three arms, three seeds; seconds."""
    courses = {arm: [course(arm, seed) for seed in SEEDS] for arm in ARMS}
    on_progress(f"{len(ARMS)} arms, {len(SEEDS)} seeds, {STEPS} steps each")
    return assess(courses)


def assess(courses: dict[str, list[Course]]) -> ExperimentResult:
    """What the courses come to."""
    start, end = ({arm: [one.legal_mass[k] for one in runs] for arm, runs in courses.items()} for k in (0, -1))
    innocent = {arm: [one.innocent[-1] for one in runs] for arm, runs in courses.items()}
    noise = {arm: [float(np.std(one.gradient_norm)) for one in runs] for arm, runs in courses.items()}
    claims = [
        _below("ECPO alone leaves the median innocent leaf less than half of its probability", innocent[ECPO], [0.5] * 3),
        _below("GBPO leaves it more than half", [0.5] * 3, innocent[GBPO]),
        _below("GBPO's gradient norm varies less", noise[GBPO], noise[ECPO]),
        _below("with random legal candidates rewarded ECPO ends more legal than it began", start[RANDOM], end[RANDOM]),
    ]
    return ExperimentResult(
        name=NAME,
        source="OneRec-V2, section 4.2",
        paper=PAPER,
        claims=claims,
        figures={"innocent": innocent, "legal_mass": end, "legal_mass_before": start, "gradient_norm_deviation": noise},
        curves={arm: [vars(one) for one in runs] for arm, runs in courses.items()},
        design={"codes": CODES, "levels": LEVELS, "legal": LEGAL, "group": GROUP, "steps": STEPS, "rate": RATE},
    )


def course(arm: str, seed: int) -> Course:
    """One arm on one tree."""
    rng = np.random.default_rng(seed)
    legal = torch.zeros(CODES**LEVELS, dtype=torch.bool)
    legal[torch.from_numpy(rng.choice(CODES**LEVELS, LEGAL, replace=False))] = True
    taste = torch.from_numpy(rng.random(CODES**LEVELS))
    tables = _start(legal, rng)
    objective: Objective = "gbpo" if arm == GBPO else "ecpo"
    generator = torch.Generator().manual_seed(seed)
    kept = legal & (taste > taste[legal].median())
    before = _leaf_log_probs(tables).sum(-1)[kept]
    found = Course([], [], [])
    for _ in range(STEPS):
        tables = [table.detach().requires_grad_() for table in tables]
        levels = _leaf_log_probs(tables)
        whole = levels.sum(-1)
        found.legal_mass.append(float(whole.detach().exp()[legal].sum()))
        found.innocent.append(float((whole.detach()[kept] - before).median().exp()))
        best = whole.detach().topk(GROUP).indices
        is_legal = legal[best]
        rewards = [float(taste[leaf]) if legal[leaf] else None for leaf in best.tolist()]
        advantage = torch.from_numpy(group_advantages(rewards)).double().clamp(max=0)
        now, old = levels[best], levels[best].detach()
        if objective == "gbpo":
            ratio_of = preference_ratio(objective, now, old, advantage[:, None], EPS, DELTA)
            loss = preference_loss(objective, ratio_of, advantage[:, None], EPS)
        else:
            ratio_of = preference_ratio(objective, now.sum(-1), old.sum(-1), advantage, EPS, DELTA)
            loss = preference_loss(objective, ratio_of, advantage, EPS)
        if arm == RANDOM:
            drawn = format_draw(old.sum(-1), FORMAT_SAMPLES, "random", generator)
            loss = loss + format_loss(now.sum(-1), old.sum(-1), is_legal, drawn, EPS, DELTA)
        gradients = torch.autograd.grad(loss, tables)
        found.gradient_norm.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        tables = [table - RATE * gradient for table, gradient in zip(tables, gradients, strict=True)]
    return found


def plot(axes: Any, result: ExperimentResult) -> bool:
    """What is left of the innocent leaves' probability, every seed."""
    for k, (arm, runs) in enumerate(result.curves.items()):
        for seed, one in enumerate(runs):
            axes.plot(one["innocent"], color=f"C{k}", linewidth=1, label=arm if seed == 0 else None)
    axes.set(title="What negatives do to innocent items", xlabel="step", ylabel="probability over its start, median")
    axes.set_yscale("log")
    axes.legend()
    return True


def _start(legal: Tensor, rng: np.random.Generator) -> list[Tensor]:
    """Logits whose leaves have Zipf-like popularity where legal, and random mass elsewhere, as after fine-tuning."""
    ranks = torch.from_numpy(rng.permutation(int(legal.sum())) + 1.0)
    probability = torch.from_numpy(rng.dirichlet(np.full(len(legal), 0.1))) * SMOOTHING
    probability[legal] += (1 - SMOOTHING) * (1 / ranks) / (1 / ranks).sum()
    mass = (probability + 1e-9).view(CODES, CODES, CODES)
    return [mass.sum((1, 2)).log(), mass.sum(2).log(), mass.log()]


def _leaf_log_probs(tables: list[Tensor]) -> Tensor:
    """(leaves, K) by level."""
    first, second, third = (table.log_softmax(-1) for table in tables)
    shape = (CODES, CODES, CODES)
    levels = (first[:, None, None].expand(shape), second[:, :, None].expand(shape), third)
    return torch.stack([level.reshape(-1) for level in levels], -1)


def _below(claim: str, ours: list[float], theirs: list[float]) -> Claim:
    return Claim(
        claim=claim, holds=all(a < b for a, b in zip(ours, theirs, strict=True)), figures={"ours": ours, "theirs": theirs}
    )
