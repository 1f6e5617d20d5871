"""An experiment's runs: one start per seed, every arm from it, judged on the same users; finished ones are kept.

A trend counts when the same-seed differences of three seeds all have its sign and the paired bootstrap over users of the
seeds' mean gives p < .05: a sign test of three seeds alone cannot, and users alone know no noise of training.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.harness import Claim, commit, machine
from benchmarks.runs import Kept, KeptRun, all_runs, key_of
from benchmarks.simulated_sessions import Plan, Say
from common.policy import Policy, build_policy, load_weights, to_blob
from common.settings import Positive, Section
from deploy.experiments.judgement import judge
from deploy.experiments.laboratory import Laboratory, Term
from deploy.experiments.reinforcement import Arm, Schedule, Start, fine_tune, reinforce
from rollout.evaluation import paired_bootstrap

POINTS = 50
RESAMPLES = 2000
START = "start"


class Judging(Section):
    """By whom, and how."""

    users: Positive = 2_000
    widths: list[Positive] = Field(default=[4, 16, 64])
    """Of separate beam searches."""
    shown: Positive = 10
    """Items of a list."""


class Design(Section):
    """What all arms of an experiment have in common."""

    plan: Plan = Plan(steps=6_250)
    """Its sessions; how long training takes say ``start`` and ``schedule``."""
    reward: tuple[Term, ...] = ("ltr", "wtr", "cmtr")
    """What rollouts are scored by: the mean of these probabilities of the preference model. The simulator's true reward
    hardly depends on durations, its clicks and views do, and with them the P-Score (see tr22)."""
    start: Start = Start()
    schedule: Schedule = Schedule()
    judging: Judging = Judging()


class Trial(KeptRun):
    """One arm with one seed."""

    users: dict[str, list[float]]
    """Figures by user, see `deploy.experiments.judgement`."""
    curves: dict[str, list[float]] = Field(default={})
    """What training measured, `POINTS` means; of ``gradient_norm`` the largest of each stretch."""

    def mean(self, figure: str) -> float:
        """Over the users."""
        return float(np.mean(self.users[figure]))


Trials = dict[str, list[Trial]]
"""By arm, one per seed in the order of the seeds; `START` is what all arms began with."""


class ExperimentResult(BaseModel):
    """What an experiment found."""

    model_config = ConfigDict(extra="forbid")

    name: str
    source: str
    """The paper's table or figure."""
    paper: dict[str, Any]
    """What stands there."""
    claims: list[Claim]
    figures: dict[str, dict[str, list[float]]]
    """By figure and arm, the mean over users with each seed."""
    curves: dict[str, list[dict[str, list[float]]]]
    design: dict[str, Any]
    commit: str = Field(default_factory=commit)
    """That put the result together."""
    commits: dict[str, list[str]] = {}
    """By arm, that of each seed's run: kept ones may be of others."""
    machine: str = Field(default_factory=machine)


def run_trials(
    design: Design, arms: Sequence[Arm], seeds: Sequence[int], cache: Path, on_progress: Say, workers: int | None = None
) -> Trials:
    """All arms with all seeds. Experiments of one design share the starts, and the arms that they have in common."""
    Laboratory.open(design.plan, cache, on_progress, design.reward)
    begin = partial(begin_one, design, cache, on_progress)
    kept = Kept(cache / "starts.jsonl", Trial)
    key = _start_key(design)
    starts = all_runs(kept, [_Beginning()], seeds, lambda _: key, begin, _told, on_progress, workers)
    work = partial(reinforce_one, design, cache, on_progress)
    kept = Kept(cache / "trials.jsonl", Trial)
    return starts | all_runs(kept, arms, seeds, partial(key_of, design), work, _told, on_progress, workers)


class _Beginning(Section):
    name: str = START


class _Scored(Section):
    reward: tuple[Term, ...]


def begin_one(design: Design, cache: Path, on_progress: Say, _: _Beginning, seed: int) -> Trial:
    """Fine-tune and judge the start of a seed; its weights are kept in the cache folder, for other judges too."""
    began, laboratory = time.monotonic(), _laboratory(design.plan, design.reward, cache)
    path = _start_file(design, cache, seed)
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(to_blob(fine_tune(design.start, laboratory, seed, on_progress)))
        temporary.replace(path)
    policy = _start(design, cache, seed)
    return _judged(design, laboratory, policy, key=_start_key(design), arm=START, seed=seed, began=began)


def reinforce_one(design: Design, cache: Path, on_progress: Say, arm: Arm, seed: int) -> Trial:
    """Train one arm from its seed's start and judge it."""
    began, laboratory = time.monotonic(), _laboratory(design.plan, design.reward, cache)
    start = _start(design, cache, seed)
    policy, course = reinforce(arm, design.schedule, laboratory, start, seed, on_progress)
    curves = {
        name: _points(values, np.max if name == "gradient_norm" else np.nanmean)
        for name, values in vars(course).items()
        if values
    }
    key = key_of(design, arm)
    return _judged(design, laboratory, policy, key=key, arm=arm.name, seed=seed, curves=curves, began=began)


def higher(claim: str, ours: Sequence[Trial], theirs: Sequence[Trial], figure: str, their_figure: str = "") -> Claim:
    """The claim that ours is higher in a figure (than theirs in another one, if given)."""
    their_figure = their_figure or figure
    pairs = list(zip(ours, theirs, strict=True))
    differences = [one.mean(figure) - other.mean(their_figure) for one, other in pairs]
    own, other = (np.mean([t.users[name] for t in side], 0) for side, name in ((ours, figure), (theirs, their_figure)))
    p = paired_bootstrap(own, other, RESAMPLES, seed=0)
    return Claim(claim=claim, holds=min(differences) > 0 and p < 0.05, figures={"differences": differences, "p": p})


def rises_more(claim: str, ours: Sequence[Trial], theirs: Sequence[Trial], figure: str, other: str) -> Claim:
    """The claim that ours is further above theirs in one figure than in another one."""
    pairs = list(zip(ours, theirs, strict=True))
    gains = [[np.array(a.users[name]) - np.array(b.users[name]) for a, b in pairs] for name in (figure, other)]
    differences = [float(np.mean(one - another)) for one, another in zip(*gains, strict=True)]
    p = paired_bootstrap(np.mean(gains[0], 0), np.mean(gains[1], 0), RESAMPLES, seed=0)
    return Claim(claim=claim, holds=min(differences) > 0 and p < 0.05, figures={"differences": differences, "p": p})


def found(
    name: str, source: str, paper: dict[str, Any], claims: list[Claim], trials: Trials, design: Design
) -> ExperimentResult:
    """The result of an experiment, with every figure that its judges gave."""
    figures = sorted({figure for runs in trials.values() for one in runs for figure in one.users})
    return ExperimentResult(
        name=name,
        source=source,
        paper=paper,
        claims=claims,
        figures=means(trials, figures),
        curves={arm: [one.curves for one in runs] for arm, runs in trials.items() if runs[0].curves},
        design=design.model_dump(mode="json"),
        commits={arm: [one.commit for one in runs] for arm, runs in trials.items()},
    )


def bars(axes: Any, result: ExperimentResult, figure: str, arms: Sequence[str], title: str) -> bool:
    """One figure by arm, every seed a point, on a matplotlib axes."""
    for seed in range(len(result.figures[figure][arms[0]])):
        axes.plot(arms, [result.figures[figure][arm][seed] for arm in arms], marker="o", label=f"seed {seed}")
    axes.set(title=title, ylabel=f"true {figure}")
    axes.legend()
    return True


def courses(axes: Any, result: ExperimentResult, curve: str, arms: Sequence[str]) -> None:
    """One curve over the steps, a colour for each arm and a line for each seed, on a matplotlib axes."""
    steps = result.design["schedule"]["steps"]
    for k, arm in enumerate(arms):
        for seed, curves in enumerate(result.curves[arm]):
            at = (np.arange(len(curves[curve])) + 0.5) * steps / len(curves[curve])
            axes.plot(at, curves[curve], color=f"C{k}", linewidth=1, label=arm if seed == 0 else None)
    axes.set_xlabel("step")
    axes.legend()


def means(trials: Trials, figures: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """By figure and arm, every seed's mean over users."""
    return {figure: {arm: [one.mean(figure) for one in runs] for arm, runs in trials.items()} for figure in figures}


def _judged(design: Design, laboratory: Laboratory, policy: Policy, **told: Any) -> Trial:
    judging = design.judging
    users = judge(policy, laboratory, laboratory.users(judging.users), judging.widths, judging.shown)
    rounded = {name: [round(value, 6) for value in values] for name, values in users.items()}
    return Trial(users=rounded, seconds=time.monotonic() - told.pop("began"), commit=commit(), **told)


def _told(trial: Trial) -> str:
    return f"true reward of a list {trial.mean('list_reward'):.4f}, legality {trial.mean('legality'):.3f}"


def _start_key(design: Design) -> str:
    return key_of(design.plan, design.start, design.judging, _Scored(reward=design.reward))


def _start(design: Design, cache: Path, seed: int) -> Policy:
    policy = build_policy(design.start.policy)
    load_weights(policy, _start_file(design, cache, seed).read_bytes())
    return policy


def _start_file(design: Design, cache: Path, seed: int) -> Path:
    return cache / f"start-{key_of(design.plan, design.start)}-{seed}.safetensors"


@lru_cache(maxsize=1)
def _laboratory(plan: Plan, reward: tuple[Term, ...], cache: Path) -> Laboratory:
    return Laboratory.open(plan, cache, lambda _: None, reward)


def _points(values: list[float], of: Any) -> list[float]:
    return [round(float(of(part)), 5) for part in np.array_split(values, min(POINTS, len(values)))]
