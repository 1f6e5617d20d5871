"""Simulated sessions and the arms trained on them, at a scale of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import arms as bench
from benchmarks.arms import Outcome, lower_loss, run_arms, size_of
from benchmarks.runs import Kept, key_of
from benchmarks.simulated_sessions import Arm, Plan, Say, compact, judge, make, read, train
from common.features import Featurizer
from common.policy import build_policy
from common.policy.audit import nominal_size
from deploy.cli.console import say
from tests.benchmarks.small_arms import PLAN, SMALL

ARM = Arm(name="one", policy=compact(8, **SMALL), learning_rate=3e-3)
MIXED = Arm(
    name="two",
    policy=compact(8, **SMALL, moe={"experts": 4, "width": 8, "decoder_blocks": [0]}),
    learning_rate=3e-3,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the plan's sessions."""
    folder = tmp_path_factory.mktemp("cache")
    make(PLAN, folder, lambda _: None)
    return folder


def test_held_out_sessions_come_after_all_training_sessions_and_contexts_before_their_sessions(cache: Path) -> None:
    sessions = read(PLAN, make(PLAN, cache, lambda _: None))
    times = [sample.context.time_ms for sample in sessions.training + sessions.held_out]
    assert times == sorted(times)
    assert sessions.training[-1].context.time_ms < sessions.held_out[0].context.time_ms
    assert len(sessions.training) == PLAN.steps * PLAN.batch
    assert len(sessions.held_out) == PLAN.held_out
    for sample in sessions.training + sessions.held_out:
        assert (sample.context.events.time_ms < sample.context.time_ms).all()
        assert 1 <= len(sample.codes) <= PLAN.targets


def test_sessions_with_too_short_a_past_are_left_out(cache: Path) -> None:
    plan = PLAN.model_copy(update={"past": 60, "steps": 3})
    sessions = read(plan, make(plan, cache, lambda _: None))
    assert min(len(sample.context.events) for sample in sessions.training + sessions.held_out) >= 60


def test_a_plan_larger_than_its_log_is_told(cache: Path) -> None:
    plan = PLAN.model_copy(update={"steps": 10_000})
    with pytest.raises(ValueError, match=r"steps \* batch must be at most \d+, .* got 80000"):
        read(plan, make(plan, cache, lambda _: None))


def test_the_log_is_made_once(cache: Path) -> None:
    lines: list[str] = []
    make(PLAN, cache, lines.append)
    assert lines == []


def test_one_pass_lowers_the_loss_and_repeats_exactly(cache: Path) -> None:
    sessions = read(PLAN, make(PLAN, cache, lambda _: None))
    runs = [train(MIXED, seed, PLAN, sessions, lambda _: None) for seed in (0, 0, 1)]
    assert runs[0][1].loss == runs[1][1].loss != runs[2][1].loss
    assert len(runs[0][1].loss) == len(runs[0][1].violation) == PLAN.steps
    assert np.mean(runs[0][1].loss[-10:]) < np.mean(runs[0][1].loss[:10]) - 0.1


def test_held_out_figures_by_hand(cache: Path) -> None:
    sessions = read(PLAN, make(PLAN, cache, lambda _: None))
    policy, _ = train(ARM, 0, PLAN, sessions, lambda _: None)
    found = judge(policy, sessions)
    featurizer = Featurizer(policy.settings, sessions.index)
    sums: dict[int, list[float]] = {}
    with torch.no_grad():
        for sample in sessions.held_out:
            memory = policy.encode(featurizer([sample.context]))
            losses = -policy.log_probs(memory, torch.from_numpy(sample.codes)[None])[0].sum(-1)
            sums.setdefault(sample.context.user_id, []).extend(losses.tolist())
    np.testing.assert_allclose(found.users, [np.mean(sums[user]) for user in sorted(sums)], rtol=1e-5)
    assert found.loss.sum() == pytest.approx(np.mean([value for values in sums.values() for value in values]), rel=1e-5)
    assert found.violation is None


def test_an_interrupted_run_goes_on_where_it_was(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []
    run_one = bench.run_one

    def third_fails(plan: Plan, folder: Path, on_progress: Say, arm: Arm, seed: int) -> Outcome:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((arm.name, seed))
        return run_one(plan, folder, on_progress, arm, seed)

    monkeypatch.setattr(bench, "run_one", third_fails)
    with pytest.raises(KeyboardInterrupt):
        run_arms("interrupted", PLAN, [ARM, MIXED], (0, 1), cache, lambda _: None, workers=1)
    with (cache / "interrupted.jsonl").open("a") as file:
        file.write('{"key": "cut sh')
    monkeypatch.setattr(bench, "run_one", run_one)
    lines: list[str] = []
    outcomes = run_arms("interrupted", PLAN, [ARM, MIXED], (0, 1), cache, lines.append, workers=1)
    assert done == [("one", 0), ("two", 0)]
    assert lines[0].startswith("2 of 4 runs to do")
    assert [[one.seed for one in outcomes[name]] for name in ("one", "two")] == [[0, 1], [0, 1]]
    kept = (cache / "interrupted.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in kept] == [0, 0, 1, 1]
    assert outcomes["one"][0].violation == []
    assert outcomes["two"][0].held_out_violation is not None


def test_what_was_kept_counts_for_the_same_plan_and_arm_alone(cache: Path) -> None:
    run_arms("kept", PLAN, [ARM], (0,), cache, lambda _: None, workers=1)
    kept = Kept(cache / "kept.jsonl", Outcome)
    assert kept.get(key_of(PLAN, ARM), 0) is not None
    assert kept.get(key_of(PLAN, ARM), 1) is None
    assert kept.get(key_of(PLAN.model_copy(update={"targets": 4}), ARM), 0) is None
    assert kept.get(key_of(PLAN, ARM.model_copy(update={"learning_rate": 2e-3})), 0) is None


@pytest.mark.slow
def test_processes_find_what_one_process_finds(cache: Path) -> None:
    one = run_arms("alone", PLAN, [ARM], (0, 1), cache, say, workers=1)
    two = run_arms("together", PLAN, [ARM], (0, 1), cache, say, workers=2)
    assert [outcome.loss_per_level for outcome in one["one"]] == [outcome.loss_per_level for outcome in two["one"]]


def outcome(seed: int, loss: float, users: list[float]) -> Outcome:
    return Outcome(
        key="", arm="", seed=seed, size=1, loss_per_level=[loss], users=users, curve=[], violation=[],
        held_out_violation=None, seconds=0, commit="",
    )  # fmt: skip


def test_a_lower_loss_needs_all_seeds_and_the_users() -> None:
    theirs = [outcome(seed, 5.0, [5.0] * 40) for seed in range(2)]
    better = [outcome(seed, 4.9, [4.9 + 0.01 * (user % 2) for user in range(40)]) for seed in range(2)]
    assert lower_loss(better, theirs)["holds"]
    assert lower_loss(better, theirs)["differences"] == pytest.approx([-0.1, -0.1])
    assert not lower_loss([better[0], outcome(1, 5.1, better[1].users)], theirs)["holds"]
    doubtful = [outcome(seed, 4.9, [4.0, 5.9] * 20) for seed in range(2)]
    assert not lower_loss(doubtful, theirs)["holds"]


def test_the_size_is_known_before_training() -> None:
    assert size_of(ARM) == nominal_size(build_policy(ARM.policy))
