"""The job on a small log: whole artifacts, repeatable, and blind to the days after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.context import DAY_MS
from common.item_index import ItemIndex, latest_index
from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import LogWriter, SessionLog
from common.settings import Settings, load_settings
from tokenizer_job.events import TrainingEvents
from tokenizer_job.job import build_index
from tokenizer_job.quantizers.rq_kmeans import RqKmeans

torch.set_num_threads(1)
ITEMS, USERS, DAYS = 120, 30, 3
FIRST_ID = 1000
UNKNOWN_ID = 7
Sessions = list[Session]


def make_items() -> list[Item]:
    return [
        Item(item_id=FIRST_ID + 2 * i, author_id=1 + i % 20, tags=[i % 7, 50 + i % 3][: 1 + i % 2], duration_ms=1000 * i)
        for i in reversed(range(ITEMS))
    ]


def make_users() -> list[User]:
    rng = np.random.default_rng(1)
    drawn = (FIRST_ID + 2 * rng.integers(0, ITEMS - 10, (USERS, 20))).tolist()
    zeros = [0] * 20
    return [
        User(user_id=u, history=Events(item_id=ids, time_ms=zeros, play_ms=zeros, duration_ms=zeros, labels=[1] * 20))
        for u, ids in enumerate(drawn)
    ]


def make_sessions(seed: int = 2) -> Sessions:
    rng = np.random.default_rng(seed)
    sessions = []
    for day in range(DAYS):
        for user in range(USERS):
            time_ms = day * DAY_MS + 1000 * user
            items = [UNKNOWN_ID, *(FIRST_ID + 2 * rng.integers(0, ITEMS - 10, 5)).tolist()]
            shown = [Impression(item_id=i, time_ms=time_ms, labels=int(rng.integers(0, 2))) for i in items]
            sessions.append(Session(session_id=f"{day}-{user}", user_id=user, time_ms=time_ms, impressions=shown))
    return sessions


def write_log(path: Path, sessions: Sessions) -> SessionLog:
    LogWriter(path, "test", int(Label.CLICK), []).write(make_items(), make_users(), sessions)
    return SessionLog.open(path)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    return write_log(tmp_path_factory.mktemp("tokenizer") / "log", make_sessions())


def small(*more: str) -> Settings:
    widths = ["tokenizer.collaborative_width=16", "tokenizer.content_width=8"]
    return load_settings(overrides=["policy.codes=16", *widths, *more])


def test_every_item_of_the_catalogue_is_indexed_and_saved(log: SessionLog, tmp_path: Path) -> None:
    said: list[str] = []
    index = build_index(log, small(), tmp_path, 2, said.append)
    assert said
    by_id = {item.item_id: item for item in log.items()}
    assert index.item_ids.tolist() == sorted(by_id)
    for row, item_id in enumerate(index.item_ids.tolist()):
        item = by_id[item_id]
        assert (index.author[row], index.duration_ms[row]) == (item.author_id, item.duration_ms)
        assert [tag for tag in index.tags[row].tolist() if tag >= 0] == item.tags
    assert len(index.trie.leaf_keys) == ITEMS  # every item has a semantic ID of its own
    loaded = ItemIndex.load(latest_index(tmp_path / "index"))
    np.testing.assert_array_equal(loaded.sids, index.sids)
    assert (tmp_path / "tokenizer" / "report.json").is_file()
    model = RqKmeans.load(tmp_path / "tokenizer" / "codebooks.safetensors")
    np.testing.assert_array_equal(model.encode(index.vectors)[:, :2], index.sids[:, :2])


def test_without_dedup_the_sids_are_those_of_the_codebooks(log: SessionLog, tmp_path: Path) -> None:
    index = build_index(log, small("tokenizer.dedup=none", "policy.levels=2"), tmp_path, 2)
    model = RqKmeans.load(tmp_path / "tokenizer" / "codebooks.safetensors")
    # Rows of the index are in another order than at the fit, which may move nothing but a tie.
    np.testing.assert_array_equal(model.encode(index.vectors), index.sids)


def test_the_days_after_training_change_nothing(log: SessionLog, tmp_path: Path) -> None:
    first = build_index(log, small(), tmp_path / "a", 2)
    changed = make_sessions()[: 2 * USERS] + make_sessions(seed=9)[2 * USERS :]
    second = build_index(write_log(tmp_path / "log", changed), small(), tmp_path / "b", 2)
    assert first.tokenizer_version == second.tokenizer_version
    for name in ("sids", "vectors", "popularity"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    third = build_index(write_log(tmp_path / "other", make_sessions(seed=9)), small(), tmp_path / "c", 2)
    assert third.tokenizer_version != first.tokenizer_version


def test_items_that_nobody_met_are_indexed_from_their_content(log: SessionLog, tmp_path: Path) -> None:
    index = build_index(log, small(), tmp_path, 2)
    unmet = index.rows(FIRST_ID + 2 * np.arange(ITEMS - 10, ITEMS))
    assert (np.linalg.norm(index.vectors[unmet, :16], axis=1) > 0.99).all()
    assert not index.popularity[unmet].any()


def test_popularity_prefers_positive_and_recent_events(tmp_path: Path) -> None:
    def one(day: int, user: int, item: int, labels: int) -> Session:
        shown = Impression(item_id=item, time_ms=day * DAY_MS, labels=labels)
        return Session(session_id=f"{day}-{user}", user_id=user, time_ms=day * DAY_MS, impressions=[shown])

    items = [Item(item_id=i) for i in (5, 3, 4)]
    history = Events(item_id=[4], time_ms=[0], play_ms=[0], duration_ms=[0], labels=[1])
    sessions = [one(0, 1, 3, 1), one(1, 1, 5, 1), one(1, 2, 3, 0), one(2, 1, 4, 1)]
    LogWriter(tmp_path / "log", "test", int(Label.CLICK), []).write(items, [User(user_id=1, history=history)], sessions)
    log = SessionLog.open(tmp_path / "log")
    ids = np.array([5, 3, 4])
    assert TrainingEvents.read(log, ids, 2).popularity(3).tolist() == pytest.approx([1.0, 0.5 + 0.1, 0.25])
    events = TrainingEvents.read(log, ids, 3)
    assert list(zip(events.user.tolist(), ids[events.row].tolist(), strict=True)) == [(1, 4), (1, 3), (1, 5), (1, 4), (2, 3)]


def refuse_negative_days(log: SessionLog, folder: Path) -> None:
    build_index(log, small(), folder, -1)


def refuse_too_many_codes(log: SessionLog, folder: Path) -> None:
    build_index(log, small("policy.codes=512"), folder, 2)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (refuse_negative_days, "train_days and held_out must be at least 0"),
        (refuse_too_many_codes, "120 distinct points for 512 codes"),
    ],
)
def test_what_cannot_be_done_is_named(
    log: SessionLog, tmp_path: Path, attempt: Callable[[SessionLog, Path], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attempt(log, tmp_path)
    assert not (tmp_path / "index").exists()
