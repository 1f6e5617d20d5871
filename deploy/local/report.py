"""The report of a run, from what the workers left in its folder. docs/report.md explains every key.

A value that could not be had is null; nothing is made up in its place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from common.item_index import read_note, snapshot_path, versions
from common.session_log import LogManifest, SessionLog
from deploy.local.run_folder import RunFolder, read_json
from deploy.local.statistics import Line, RunStatistics

Tree = dict[str, Any]
END_SHARE = 0.1
"""``first`` and ``last`` are means over this share of the groups at either end."""
TRAINED = "trained"


def build_report(run: RunFolder) -> Tree:
    """All figures of a run. Reads files only; may be called again at any time."""
    statistics = RunStatistics(run)
    statistics.refresh()
    state = _last_state(run)
    counters = state.get("counters") or statistics.last_step.get("counters", {})
    steps, groups = statistics.steps, statistics.groups
    return {
        "run": run.path.name,
        "data": _data(run),
        "duration_s": _timing(run).get("duration_s"),
        "phases_s": _phases(run),
        "restarts": read_json(run.stack).get("restarts", {}),
        "sessions": _sessions(counters),
        "samples": _samples(counters, steps),
        "groups": _groups(counters, groups),
        "parameters": {"published": state.get("versions"), "used": _used(statistics.batches)},
        "index": _index(run, steps, groups),
        "staleness": _staleness(groups),
        "parity": _parity(groups),
        "legality": _course(groups, "legal_share"),
        "reward": _course(groups, "mean_reward") | _preference_model(run, groups),
        "loss": _losses(run, steps),
        "retrieval": _retrieval(run),
        "throughput": _throughput(steps, groups),
        "latency_ms": _latencies(steps, groups, statistics.batches),
        "dead_letters": _dead_letters(run, counters),
    }


def _data(run: RunFolder) -> Tree:
    manifest: LogManifest | None = SessionLog.open(run.log).manifest if run.log.exists() else None
    shown = {"source", "items", "users", "sessions", "impressions"}
    return (manifest.model_dump(include=shown) if manifest else {}) | {"split": run.settings.split.model_dump()}


def _timing(run: RunFolder) -> Tree:
    timing: Tree = read_json(run.path / "timing.json")
    return timing


def _phases(run: RunFolder) -> Tree:
    steps: Tree = {file.stem: read_json(file)["seconds"] for file in run.prepared.glob("*.json")}
    return {"steps": steps, "up": _timing(run).get("phases_s", {})}


def _last_state(run: RunFolder) -> Tree:
    """What the newest committed checkpoint knows."""
    markers = sorted(run.checkpoints.glob("[0-9]*/COMMITTED"))
    state: Tree = read_json(markers[-1].parent / "state.json") if markers else {}
    return state


def _sessions(counters: Tree) -> Tree:
    names = ("consumed", "valid", "kept", "rejected", "duplicates")
    out: Tree = {name: counters.get(f"sessions.{name}", 0) if counters else None for name in names}
    return out | {"kept_share": _ratio(out["kept"], out["valid"])}


def _samples(counters: Tree, steps: list[Line]) -> Tree:
    return {
        "trained": sum(step["targets"] for step in steps) if steps else None,
        "steps": steps[-1]["step"] if steps else None,
        "unknown_impressions": counters.get("impressions.unknown", 0) if counters else None,
    }


def _groups(counters: Tree, groups: list[Line]) -> Tree:
    sizes = [line["candidates"] for line in groups if line.get("candidates")]
    trained = [line for line in groups if line["outcome"] == TRAINED]
    return {
        "requested": counters.get("requests.sent", 0) if counters else None,
        "skipped": counters.get("requests.skipped", 0) if counters else None,
        "received": sum(line["record"] is not None for line in groups),
        "trained": len(trained),
        "dropped": dict(Counter(line["outcome"] for line in groups if line["outcome"] != TRAINED)),
        "without_preference": sum(not line["preference"] for line in trained),
        "trained_per_version": _by_version(trained, len),
        "candidates_min": min(sizes, default=None),
        "candidates_max": max(sizes, default=None),
    }


def _used(batches: list[Line]) -> dict[str, list[int]]:
    used: dict[str, set[int]] = defaultdict(set)
    for line in batches:
        used[line["actor"]].add(line["version"])
    return {actor: sorted(used[actor]) for actor in sorted(used)}


def _index(run: RunFolder, steps: list[Line], groups: list[Line]) -> Tree:
    """Item index snapshots: what was published, what the trainer had in force, what groups were made with."""
    published = versions(run.index) if run.index.exists() else []
    drift = read_note(snapshot_path(run.index, published[-1])).get("drift") if published else None
    used = Counter(line["index_version"] for line in groups if line["outcome"] == TRAINED)
    return {
        "published": published or None,
        "in_force": sorted({step["index_version"] for step in steps}) or None,
        "groups_trained": {str(version): used[version] for version in sorted(used)},
        "new_items": (drift["items"] if drift else 0) if published else None,
        "drift": drift,
    }


def _staleness(groups: list[Line]) -> Tree:
    lags = Counter(line["lag"] for line in groups if line["outcome"] == TRAINED)
    return {"max": max(lags, default=None), "histogram": {str(lag): lags[lag] for lag in sorted(lags)}}


def _parity(groups: list[Line]) -> Tree:
    errors = _values(groups, "parity_error")
    mean = float(np.mean(errors)) if errors else None
    return {"mean_abs_ratio_error": mean, "max": max(errors, default=None), "groups": len(errors)}


def _course(groups: list[Line], name: str) -> Tree:
    """How a group's figure went: over the first and the last groups, and per parameter version that generated them."""
    answered = [line for line in groups if line.get(name) is not None]
    count = max(1, round(END_SHARE * len(answered)))

    def mean(lines: list[Line]) -> float | None:
        return float(np.mean([line[name] for line in lines])) if lines else None

    ends = {"first": mean(answered[:count]), "last": mean(answered[-count:])}
    return ends | {"per_version": _by_version(answered, mean)}


def _preference_model(run: RunFolder, groups: list[Line]) -> Tree:
    """Trained groups by the model that scored them; and of each objective's tower before streaming, on the newest part of
    the warm window, judged before it was learned from."""
    used = Counter(line["reward_version"] for line in groups if line["outcome"] == TRAINED)
    figures = read_json(run.prepared / "reward.json").get("result", {}).get("objectives", {})
    shown = {"model_auc": "auc", "model_calibration": "calibration", "model_reliability": "reliability"}
    out = {name: {x: one.get(key) for x, one in figures.items()} or None for name, key in shown.items()}
    return {"model_versions": {version: used[version] for version in sorted(used)}} | out


def _losses(run: RunFolder, steps: list[Line]) -> Tree:
    before, after = (read_json(run.evaluation / f"{name}.json") for name in ("before", "after"))
    trained = [step for step in steps if step["loss_per_level"]]
    count = max(1, round(END_SHARE * len(trained)))
    return {
        "next_day_before": before.get("loss"),
        "next_day_after": after.get("loss"),
        "next_day_per_level_before": before.get("loss_per_level"),
        "next_day_per_level_after": after.get("loss_per_level"),
        "stream_per_level_first": _mean_levels(trained[:count]),
        "stream_per_level_last": _mean_levels(trained[-count:]),
    }


def _mean_levels(steps: list[Line]) -> list[float] | None:
    """Mean loss per level, each step weighted by its targets."""
    if not steps:
        return None
    weights = [step["targets"] for step in steps]
    means: list[float] = np.average([step["loss_per_level"] for step in steps], 0, weights).tolist()
    return means


def _retrieval(run: RunFolder) -> Tree:
    names = ("recall_at_10", "recall_at_50", "ndcg_at_10")
    read = {name: read_json(run.evaluation / f"{name}.json") for name in ("before", "after", "baselines", "comparison")}
    after, baselines = read["after"], read["baselines"]
    out: Tree = {name: after.get(name) for name in names} | {"users": after.get("users")}
    out |= {f"before_{name}": read["before"].get(name) for name in names}
    for baseline in ("popularity", "itemknn"):
        out |= {f"{baseline}_{name}": baselines.get(baseline, {}).get(name) for name in names}
    ours, theirs = out["recall_at_10"], out["itemknn_recall_at_10"]
    out["gap_to_itemknn_at_10"] = None if ours is None or theirs is None else ours - theirs
    compared = ("popularity", "itemknn", "before")
    return out | {f"p_value_over_{name}": read["comparison"].get(f"p_value_over_{name}") for name in compared}


def _throughput(steps: list[Line], groups: list[Line]) -> Tree:
    """Per second of streaming: from the first step's start to the last step's end."""
    if not steps:
        return dict.fromkeys(("seconds", "sessions_per_s", "steps_per_s", "groups_per_s", "candidates_per_s"))
    seconds = (steps[-1]["time_ms"] - steps[0]["time_ms"]) / 1000 + steps[0]["seconds"]
    counters = steps[-1]["counters"]
    return {
        "seconds": seconds,
        "sessions_per_s": _ratio(counters.get("sessions.consumed", 0), seconds),
        "steps_per_s": _ratio(len(steps), seconds),
        "groups_per_s": _ratio(len(groups), seconds),
        "candidates_per_s": _ratio(sum(line.get("candidates", 0) for line in groups), seconds),
    }


def _latencies(steps: list[Line], groups: list[Line], batches: list[Line]) -> Tree:
    hops = {
        "request_to_group": "requested_to_produced_ms",
        "generation": "generated_ms",
        "scoring": "scored_ms",
        "group_to_training": "produced_to_trained_ms",
    }
    answered = [line for line in groups if line.get("candidates")]
    out = {hop: _spread(_values(answered, name)) for hop, name in hops.items()}
    out["version_to_actor"] = _spread(_version_delays(steps, batches))
    return out | {"step": _spread([1000 * step["seconds"] for step in steps])}


def _version_delays(steps: list[Line], batches: list[Line]) -> list[float]:
    """For each version and actor: from the end of the step that it is of to the first batch generated with it, ms."""
    made = {step["step"]: step["time_ms"] for step in steps}
    first: dict[tuple[int, str], int] = {}
    for batch in batches:
        first.setdefault((batch["version"], batch["actor"]), batch["time_ms"])
    return [max(0.0, time_ms - made[version]) for (version, _), time_ms in first.items() if version in made]


def _dead_letters(run: RunFolder, counters: Tree) -> Tree:
    """From the topic, where it could be read before the broker went; else the trainer's count of rejected sessions."""
    letters = read_json(run.path / "dead_letters.json")
    if letters:
        shown = [letter for letter in letters["letters"] if letter]
        return {"count": letters["count"], "letters": shown}
    return {"count": counters.get("sessions.rejected", 0) if counters else None, "letters": None}


def _by_version(lines: list[Line], summary: Any) -> Tree:
    """A summary of the lines of each parameter version."""
    versions: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        versions[line["version"]].append(line)
    return {str(version): summary(versions[version]) for version in sorted(versions)}


def _values(lines: Iterable[Line], name: str) -> list[float]:
    return [line[name] for line in lines if line.get(name) is not None]


def _spread(values: list[float]) -> Tree:
    if not values:
        return {"mean": None, "p50": None, "p95": None}
    p50, p95 = np.percentile(values, (50, 95))
    return {"mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95)}


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
