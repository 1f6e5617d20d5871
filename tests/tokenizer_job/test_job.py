"""The job on a small log: whole artifacts, repeatable, and blind to the days after training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.context import DAY_MS
from common.item_index import ItemIndex, latest_index
from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import LogWriter, SessionLog
from tests.tokenizer_job.tiny_log import FIRST_ID, ITEMS, USERS, make_sessions, small, write_log
from tokenizer_job.events import TrainingEvents
from tokenizer_job.job import build_index
from tokenizer_job.quantizers import load_quantizer
from tokenizer_job.tokenizer import Tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> SessionLog:
    return write_log(tmp_path_factory.mktemp("tokenizer") / "log", make_sessions())


def test_every_item_of_the_catalogue_is_indexed_and_saved(log: SessionLog, tmp_path: Path) -> None:
    said: list[str] = []
    index = build_index(log, small(), tmp_path, 2, said.append).index
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
    model = load_quantizer(tmp_path / "tokenizer" / "quantizer.safetensors")
    np.testing.assert_array_equal(model.encode(index.vectors)[:, :2], index.sids[:, :2])


def test_without_dedup_the_sids_are_those_of_the_codebooks(log: SessionLog, tmp_path: Path) -> None:
    index = build_index(log, small("tokenizer.dedup=none", "policy.levels=2"), tmp_path, 2).index
    model = load_quantizer(tmp_path / "tokenizer" / "quantizer.safetensors")
    # Rows of the index are in another order than at the fit, which may move nothing but a tie.
    np.testing.assert_array_equal(model.encode(index.vectors), index.sids)


def test_the_days_after_training_change_nothing(log: SessionLog, tmp_path: Path) -> None:
    first = build_index(log, small(), tmp_path / "a", 2).index
    changed = make_sessions()[: 2 * USERS] + make_sessions(seed=9)[2 * USERS :]
    second = build_index(write_log(tmp_path / "log", changed), small(), tmp_path / "b", 2).index
    assert first.tokenizer_version == second.tokenizer_version
    for name in ("sids", "vectors", "popularity"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    third = build_index(write_log(tmp_path / "other", make_sessions(seed=9)), small(), tmp_path / "c", 2).index
    assert third.tokenizer_version != first.tokenizer_version


def test_items_that_nobody_met_are_indexed_from_their_content(log: SessionLog, tmp_path: Path) -> None:
    index = build_index(log, small(), tmp_path, 2).index
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


def test_each_users_last_events_can_be_held_out(log: SessionLog) -> None:
    ids = np.array([item.item_id for item in log.items()])
    whole, cut = TrainingEvents.read(log, ids, None), TrainingEvents.read(log, ids, None, held_out=2)
    for user in range(USERS):
        assert cut.row[cut.user == user].tolist() == whole.row[whole.user == user][:-2].tolist()


def test_items_that_are_published_later_are_left_to_the_online_job(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions(), published=100, content=True)
    index = build_index(log, small(), tmp_path / "two", 2).index
    assert index.item_ids.tolist() == [FIRST_ID + 2 * i for i in range(100)]
    assert len(build_index(log, small(), tmp_path / "all", None).index) == ITEMS


@pytest.mark.parametrize("more", ["tokenizer.method=balanced", "tokenizer.dedup=append_level", "tokenizer.method=rq_vae"])
def test_every_method_gives_items_ids_of_their_own_and_reads_back(log: SessionLog, tmp_path: Path, more: str) -> None:
    result = build_index(log, small(more, "tokenizer.rq_vae.epochs=3"), tmp_path, 2)
    sids = result.index.sids
    for sid in sids:  # shared only under a prefix with more items than codes
        under = sids[(sids[:, :-1] == sid[:-1]).all(1), -1]
        assert (under == sid[-1]).sum() == 1 or len(under) > result.index.codes
    assert result.index.levels == 3
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert loaded.card == result.tokenizer.card
    vectors = np.asarray(result.index.vectors)
    np.testing.assert_array_equal(loaded.quantizer.encode(vectors), result.tokenizer.quantizer.encode(vectors))


def test_an_aligned_tokenizer_encodes_again_what_it_was_fitted_on(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions(), content=True)
    result = build_index(log, small("tokenizer.vectors=aligned"), tmp_path, 2)
    vectors = Tokenizer.load(tmp_path / "tokenizer").encoder.encode(log.items(), log.content())
    rows = result.index.rows([item.item_id for item in log.items()])
    np.testing.assert_allclose(vectors, result.index.vectors[rows], atol=1e-5)


def test_nothing_of_an_earlier_fit_in_the_folder_gets_into_a_later_one(tmp_path: Path) -> None:
    plain, rich = (write_log(tmp_path / str(n), make_sessions(), content=bool(n)) for n in range(2))
    out = tmp_path / "out"
    for log, vectors in ((plain, "aligned"), (rich, "aligned"), (rich, "joined")):
        fitted = build_index(log, small(f"tokenizer.vectors={vectors}"), out, 2).tokenizer.encoder
        loaded = Tokenizer.load(out / "tokenizer").encoder
        items, content = log.items(), log.content()
        np.testing.assert_allclose(loaded.encode(items, content), fitted.encode(items, content), atol=1e-5)
        assert not (out / "tokenizer" / "alignment").exists()  # where an interrupted fit goes on
        shutil.rmtree(out / "index")


def refuse_negative_days(log: SessionLog, folder: Path) -> None:
    build_index(log, small(), folder, -1)


def refuse_too_many_codes(log: SessionLog, folder: Path) -> None:
    build_index(log, small("policy.codes=512"), folder, 2)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (refuse_negative_days, "train_days must be at least 0, got -1"),
        (refuse_too_many_codes, "120 distinct points for 512 codes"),
    ],
)
def test_what_cannot_be_done_is_named(
    log: SessionLog, tmp_path: Path, attempt: Callable[[SessionLog, Path], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attempt(log, tmp_path)
    assert not (tmp_path / "index").exists()
