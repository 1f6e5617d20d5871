"""The Beauty benchmark on a small Amazon folder: nothing of the held-out events reaches training, everything is reported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import beauty_policy as bench
from common.context import UserEvents
from common.item_index import ItemIndex
from common.policy import Policy, to_blob
from common.session_log import SessionLog
from common.settings import Settings, load_settings
from deploy.data.amazon import import_amazon
from deploy.local.plots import save_plots
from tests.deploy.data.tables_on_disk import write_csv, write_json_lines
from tests.factories import make_events, make_index
from tokenizer_job.job import build_index


def small() -> Settings:
    return load_settings(
        "beauty",
        [
            "policy.d_model=16", "policy.ffn=16", "policy.codes=8", "policy.short_length=4", "policy.item_buckets=64",
            "pretrain.history_epochs=4", "pretrain.batch_contexts=32", "evaluation.beam=20",
            "tokenizer.collaborative_width=4", "tokenizer.content_width=4",
        ],
    )  # fmt: skip


def test_targets_of_training_end_before_the_held_out_events_and_contexts_before_their_targets() -> None:
    index, limit = make_index(), 4
    sequences = {user: known(10 + user, user) for user in range(5)}
    samples = bench.training_samples(sequences, index, limit)
    assert len(samples) == sum(len(events) - 3 for events in sequences.values())
    test, validation = bench.held_out(sequences, -1, limit), bench.held_out(sequences, -2, limit)
    for user, events in sequences.items():
        assert test.targets[user] == events.item_id[-1]
        assert test.contexts[user].events.item_id.tolist() == events.item_id[-5:-1].tolist()
        assert test.contexts[user].time_ms == events.time_ms[-2]
        assert validation.targets[user] == events.item_id[-2]
        mine = [sample for sample in samples if sample.context.user_id == user]
        for place, sample in enumerate(mine, 1):
            assert sample.context.events.item_id.tolist() == events.item_id[max(0, place - limit) : place].tolist()
            assert sample.codes.tolist() == index.sids[index.rows(events.item_id[place : place + 1])].tolist()


def test_a_kept_seed_counts_for_its_semantic_ids_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[ItemIndex] = []
    nothing = bench.SeedResult(seed=0, epoch=3, test={}, validation={}, curve=[], minutes=0.0)

    def measure_seed(_: object, index: ItemIndex, *_more: object) -> bench.SeedResult:
        measured.append(index)
        return nothing

    monkeypatch.setattr(bench, "measure_seed", measure_seed)
    index = make_index()
    other = replace(index, sids=index.sids[::-1])  # as another dedup gives them, by the same codebooks
    assert other.tokenizer_version == index.tokenizer_version
    for one in (index, other, index):
        assert bench.kept_seed(tmp_path, {}, one, small(), lambda _: None, 0) == nothing
    assert [one is index for one in measured] == [True, False]


def test_of_equally_good_epochs_the_one_that_is_told_is_the_one_that_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[bytes] = []

    def evaluate(policy: Policy, *_: object) -> bench.Figures:
        evaluated.append(bytes(to_blob(policy)))
        return {"recall_at_10": 0.5, "ndcg_at_10": 0.5}

    monkeypatch.setattr(bench, "evaluate", evaluate)
    import_amazon(write_reviews(tmp_path / "data"), tmp_path / "log")
    log = SessionLog.open(tmp_path / "log")
    index = build_index(log, small(), tmp_path, None, held_out=2).index
    found = bench.measure_seed(bench.read_sequences(log), index, small(), lambda _: None, 0)
    *validated, tested, _ = evaluated
    assert [one for one, weights in zip(found.curve, validated, strict=True) if weights == tested] == [found.curve[0]]
    assert found.epoch == found.curve[0]["epoch"]


def known(count: int, seed: int) -> UserEvents:
    events = make_events(count, seed)
    return UserEvents(np.clip(events.item_id, 100, 159), events.time_ms, events.play_ms, events.duration_ms, events.labels)


def write_reviews(folder: Path) -> Path:
    """30 users with 5 to 9 reviews of 40 items, in Amazon's files."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    lengths = rng.integers(5, 10, 30)
    events = [
        f"{user},{rng.integers(1, 41)},{pos},{n},{pos},{1000 * pos}" for user, n in enumerate(lengths, 1) for pos in range(n)
    ]
    write_csv(folder / "interactions.csv.gz", "user,item,pos,n,rel_time_s,timestamp", events)
    items = [{"item": k, "asin": str(k), "title": f"item {k}", "categories": [["Beauty"]]} for k in range(1, 41)]
    write_json_lines(folder / "items.jsonl.gz", items)
    np.save(folder / "minilm_l6_v2_f16.npy", rng.normal(size=(40, 8)).astype(np.float16))
    return folder


def test_a_small_run_reports_every_seed_its_curve_and_the_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "VALIDATION_USERS", 10)
    import_amazon(write_reviews(tmp_path / "data"), tmp_path / "log")
    cache = tmp_path / "cache"
    result = bench.measure(tmp_path, small(), (0, 1), 1, lambda _: None, cache)
    seeds = result.details["seeds"]
    assert len(list(cache.glob("beauty-policy-*.json"))) == 2
    [one, _] = sorted(cache.iterdir())
    one.write_text(json.dumps(json.loads(one.read_text()) | {"epoch": 99}))
    shutil.rmtree(tmp_path / "index")
    again = bench.measure(tmp_path, small(), (0, 1), 1, lambda _: None, cache).details["seeds"]
    assert [seed["epoch"] for seed in again] == [99, seeds[1]["epoch"]]
    assert save_plots(tmp_path, {"curve": bench.plot}, result) == [tmp_path / "curve.png"]
    assert [[one["epoch"] for one in seed["curve"]] for seed in seeds] == [[3, 4], [3, 4]]
    assert all(seed["epoch"] in (3, 4) for seed in seeds)
    for seed in seeds:
        best = max(seed["curve"], key=lambda one: one["ndcg_at_10"])
        assert seed["epoch"] == best["epoch"]
    assert result.details["mean"]["recall_at_10"] == pytest.approx(np.mean([s["test"]["recall_at_10"] for s in seeds]))
    assert result.value == result.details["mean"]["recall_at_10"]
    assert set(result.details["baselines"]) == {"popularity", "itemknn"}
    assert [claim.holds for claim in result.details["claims"]] == [
        result.value >= recall and result.details["mean"]["ndcg_at_10"] >= ndcg for recall, ndcg in bench.BARS.values()
    ]
