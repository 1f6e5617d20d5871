from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.settings import load_settings
from deploy.local.judging import compare_by_user
from deploy.local.plots import PLOTS, draw_plots
from deploy.local.report import build_report
from deploy.local.report_table import report_table
from deploy.local.run_folder import RunFolder, write_json
from deploy.local.up import finish
from tests.factories import make_index

DOCUMENT = Path(__file__).parents[3] / "docs" / "report.md"
PROMISED = [
    "duration_s",
    "sessions.consumed",
    "sessions.kept",
    "samples.trained",
    "groups.requested",
    "groups.trained",
    "groups.dropped",
    "parameters.published",
    "parameters.used",
    "index.in_force",
    "index.new_items",
    "staleness.max",
    "parity.mean_abs_ratio_error",
    "legality.first",
    "legality.last",
    "reward.first",
    "reward.last",
    "loss.next_day_before",
    "loss.next_day_after",
    "retrieval.recall_at_10",
    "retrieval.recall_at_50",
    "retrieval.ndcg_at_10",
    "retrieval.popularity_recall_at_10",
    "retrieval.itemknn_recall_at_10",
    "retrieval.itemknn_recall_at_50",
    "dead_letters.count",
]
OPEN = {
    "dropped",
    "trained_per_version",
    "per_version",
    "groups_trained",
    "drift",
    "used",
    "histogram",
    "steps",
    "up",
    "model_versions",
    "model_auc",
    "model_calibration",
    "model_reliability",
    "letters",
}
"""Parts whose keys are data: reasons, versions, actors, objectives."""


def step(number: int, version: int, **more: Any) -> dict[str, Any]:
    counters = {"sessions.consumed": 4 * number, "sessions.valid": 4 * number - 1, "sessions.kept": 2 * number}
    counters |= {"sessions.rejected": 1, "requests.sent": 3}
    line = {"kind": "step", "step": number, "time_ms": 1000 * number, "seconds": 0.5, "version": version}
    line["index_version"] = 1 + number // 4
    return line | {"targets": 10, "loss_per_level": [3.0, 2.0], "counters": counters} | more


def group(number: int, outcome: str = "trained", **more: Any) -> dict[str, Any]:
    line = {"kind": "group", "step": number, "record": [0, number], "request": [0, number], "outcome": outcome}
    figures = {
        "version": 0,
        "index_version": 1,
        "reward_version": "000001-a",
        "lag": number % 2,
        "candidates": 16,
        "legal_share": 0.1 * number,
        "mean_reward": 0.2,
    }
    times = {"requested_to_produced_ms": 50, "generated_ms": 20.0, "scored_ms": 10.0, "produced_to_trained_ms": 5}
    return line | figures | times | {"actor": "a", "parity_error": 1e-6, "preference": True} | more


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", load_settings("test"), {"kind": "simulate", "path": ""})


@pytest.fixture
def finished(run: RunFolder) -> RunFolder:
    # Steps 3 and 4 are written twice: the trainer was killed behind its checkpoint and executed them again.
    lines = [step(n, 0) for n in (1, 2, 3, 4)] + [group(n) for n in (1, 2, 3)]
    lines += [step(3, 0), group(3), step(4, 4), group(4, "stale"), step(5, 4), group(5, version=4)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.path / "trainer_stats.jsonl").write_text(text + '{"kind": "step", "st')
    batches = [{"actor": a, "version": v, "time_ms": t} for a, v, t in (("a", 0, 10), ("b", 0, 20), ("a", 4, 4300))]
    (run.path / "rollout_stats.jsonl").write_text("".join(json.dumps(batch) + "\n" for batch in batches))
    state = {"versions": [0, 4, 5], "counters": step(5, 4)["counters"]}
    write_json(run.checkpoints / "00000005" / "state.json", state)
    write_json(run.checkpoints / "00000005" / "COMMITTED", {})
    _write_evaluation(run)
    clicks = {"auc": 0.7, "calibration": 1.1, "reliability": [[0.1, 0.08, 40], [0.3, 0.0, 40], [0.6, 0.5, 40]]}
    write_json(
        run.prepared / "reward.json", {"seconds": 1.0, "result": {"objectives": {"ctr": clicks, "wtr": {"auc": None}}}}
    )
    drift = {"reference": 0.5, "items": 7, "residual_norm": 0.6, "empty_share": 0.9}
    make_index().save(run.index / "000001", {"drift": drift})
    write_json(run.path / "dead_letters.json", {"count": 1, "letters": [{"reason": "user_id: Field required"}]})
    write_json(run.path / "timing.json", {"duration_s": 7.0, "phases_s": {"streaming": 5.0}})
    return run


def _write_evaluation(run: RunFolder) -> None:
    figures = {
        "users": 40,
        "recall_at_10": 0.5,
        "recall_at_50": 0.7,
        "ndcg_at_10": 0.3,
        "loss": 5.0,
        "loss_per_level": [3, 2],
    }
    for name in ("before", "after"):
        write_json(run.evaluation / f"{name}.json", figures)
    write_json(run.evaluation / "baselines.json", {"popularity": {"recall_at_10": 0.1}, "itemknn": {"recall_at_10": 0.6}})
    hits = np.random.default_rng(0).integers(0, 2, 40).astype(float)
    for name, values in {"after": hits, "before": hits, "popularity": hits * 0.1, "itemknn": hits + 0.1}.items():
        np.save(run.evaluation / f"{name}.recall_at_10.npy", values)
    compare_by_user(run)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and key not in OPEN:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_a_report_counts_every_step_and_group_once(finished: RunFolder) -> None:
    report = build_report(finished)
    assert report["samples"]["trained"] == 50
    assert report["sessions"] == {
        "consumed": 20, "valid": 19, "kept": 10, "rejected": 1, "duplicates": 0, "kept_share": 10 / 19,
    }  # fmt: skip
    assert report["groups"]["trained"] == 4
    assert report["groups"]["dropped"] == {"stale": 1}
    assert report["groups"]["trained_per_version"] == {"0": 3, "4": 1}
    assert report["staleness"] == {"max": 1, "histogram": {"0": 1, "1": 3}}
    assert report["parameters"] == {"published": [0, 4, 5], "used": {"a": [0, 4], "b": [0]}}
    assert (report["index"]["published"], report["index"]["in_force"]) == ([1], [1, 2])
    assert (report["index"]["new_items"], report["index"]["groups_trained"]) == (7, {"1": 4})
    assert report["legality"]["first"] == pytest.approx(0.1)
    assert report["legality"]["last"] == pytest.approx(0.5)
    assert report["latency_ms"]["version_to_actor"]["p50"] == 300
    assert report["throughput"]["seconds"] == 4.5


def test_a_report_compares_with_the_baselines_by_user(finished: RunFolder) -> None:
    retrieval = build_report(finished)["retrieval"]
    assert retrieval["gap_to_itemknn_at_10"] == pytest.approx(-0.1)
    assert retrieval["p_value_over_popularity"] < 0.05
    assert retrieval["p_value_over_itemknn"] > 0.95
    assert retrieval["p_value_over_before"] > 0.95


def test_what_could_not_be_had_is_null(run: RunFolder) -> None:
    report = dict(leaves(build_report(run)))
    assert set(PROMISED) <= report.keys()
    for key in (
        "sessions.consumed",
        "samples.trained",
        "parity.mean_abs_ratio_error",
        "legality.first",
        "dead_letters.count",
        "index.in_force",
        "index.new_items",
    ):
        assert report[key] is None, key
    assert report["retrieval.recall_at_10"] is None
    assert report["duration_s"] is None
    report_table(build_report(run))


def test_every_key_is_documented(finished: RunFolder) -> None:
    text = DOCUMENT.read_text()
    spreads = {"mean", "p50", "p95"}
    keys = {
        key.rpartition(".")[0] if key.rpartition(".")[2] in spreads else key for key, _ in leaves(build_report(finished))
    }
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_the_report_is_written_printed_and_plotted(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(finished, tmp_path / "out" / "report.json")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == build_report(finished)
    assert "4 trained, dropped: 1 stale" in capsys.readouterr().out
    assert {path.stem for path in finished.report.glob("*.png")} == set(PLOTS)


def test_plots_without_figures_are_left_out(run: RunFolder) -> None:
    assert draw_plots(run, build_report(run)) == []
