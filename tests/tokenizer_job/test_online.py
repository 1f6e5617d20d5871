"""New items: published IDs never move, everything is found under its own ID, and what goes is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.item_index import ItemIndex
from common.messages import Item, ItemEvent
from common.session_log import DAY_MS
from common.settings import OnlineSettings
from tests.tokenizer_job.tiny_log import FIRST_ID, WIDTH, make_content, make_items, make_sessions, small, write_log
from tokenizer_job.job import Result, build_index
from tokenizer_job.online import OnlineTokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["next_best", "none", "append_level"])
def built(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Result:
    folder = tmp_path_factory.mktemp("online")
    log = write_log(folder / "log", make_sessions(), content=True)
    return build_index(log, small(f"tokenizer.dedup={request.param}"), folder, 2)


def online(built: Result, max_age_days: int = 0) -> OnlineTokenizer:
    return OnlineTokenizer(built.tokenizer, built.index, OnlineSettings(max_age_days=max_age_days))


def event(item_id: int, seed: int = 0, publish_ms: int = 0, removed: bool = False) -> ItemEvent:
    vector = np.random.default_rng(seed).normal(size=WIDTH).tolist()
    return ItemEvent(item=Item(item_id=item_id, publish_ms=publish_ms), content=[vector], removed=removed)


def ids_of(index: ItemIndex) -> dict[int, tuple[int, ...]]:
    return dict(zip(index.item_ids.tolist(), map(tuple, index.sids.tolist()), strict=True))


Change = tuple[int, int, bool]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.booleans()), max_size=12), max_size=4))
def test_ids_never_move_and_lead_back_to_their_items(built: Result, batches: list[list[Change]]) -> None:
    tokenizer = online(built)
    for batch in batches:
        before = tokenizer.index
        gone = set()
        for offset, seed, removed in batch:
            outcome = tokenizer.take(event(FIRST_ID + offset, seed, removed=removed))
            if outcome == "removed":
                gone.add(FIRST_ID + offset)
        after = tokenizer.next_index()
        assert after is None or after.version > before.version
        now = ids_of(tokenizer.index)
        for item, sid in ids_of(before).items():
            assert item in gone or now[item] == sid
        for item, sid in now.items():
            assert item in tokenizer.index.bucket(int(tokenizer.index.keys(sid))).tolist()
        assert tokenizer.waiting == 0


def test_new_items_are_placed_as_the_tokenizer_sees_them_and_do_not_share_while_there_is_room(built: Result) -> None:
    tokenizer = online(built)
    for k in range(30):
        assert tokenizer.take(event(k, seed=k % 3)) == "new"
    index = tokenizer.next_index()
    assert index is not None
    rows = index.rows(np.arange(30))
    nearest = built.tokenizer.quantizer.encode(np.asarray(index.vectors[rows]))
    shared = built.tokenizer.quantizer.levels - (built.tokenizer.card.dedup == "next_best")
    np.testing.assert_array_equal(index.sids[rows, :shared], nearest[:, :shared])
    if built.tokenizer.card.dedup != "none":
        for row in rows:
            under = index.sids[(index.sids[:, :-1] == index.sids[row, :-1]).all(1), -1]
            assert (under == index.sids[row, -1]).sum() == 1 or len(np.unique(under)) == index.codes
    assert tokenizer.drift.items == 30


def test_items_like_the_catalogues_do_not_drift_and_others_do(built: Result) -> None:
    like, unlike = online(built), online(built)
    catalogue = make_items()
    content = make_content(catalogue)
    for k, item in enumerate(catalogue):
        vectors = content.tokens[k][content.mask[k]].tolist()
        like.take(ItemEvent(item=item.model_copy(update={"item_id": k}), content=vectors))
        unlike.take(event(k, seed=k))
    like.next_index()
    unlike.next_index()
    assert like.drift.ratio == pytest.approx(1.0, abs=0.02)
    assert not like.drift.alarms(0.2)
    assert unlike.drift.ratio > like.drift.ratio


def test_what_is_known_changes_nothing(built: Result) -> None:
    tokenizer = online(built)
    assert tokenizer.take(event(FIRST_ID)) == "known"
    assert tokenizer.take(event(1, removed=True)) == "known"
    assert tokenizer.take(event(1)) == "new"
    assert tokenizer.take(event(1, seed=9)) == "known"
    assert tokenizer.take(event(1, removed=True)) == "removed"
    assert tokenizer.next_index() is None


def test_an_item_may_go_and_come_again(built: Result) -> None:
    tokenizer = online(built)
    assert tokenizer.take(event(FIRST_ID, removed=True)) == "removed"
    assert tokenizer.take(event(FIRST_ID, seed=1)) == "new"
    index = tokenizer.next_index()
    assert index is not None
    assert index.version == built.index.version + 2
    assert index.rows([FIRST_ID])[0] >= 0


def test_items_expire_by_the_newest_items_clock(built: Result) -> None:
    tokenizer = online(built, max_age_days=10)
    tokenizer.take(event(1, publish_ms=100 * DAY_MS))
    tokenizer.take(event(2, publish_ms=105 * DAY_MS))
    index = tokenizer.next_index()
    assert index is not None
    assert (index.rows([1, 2, FIRST_ID]) >= 0).all()  # a time that is not known never expires
    tokenizer.take(event(3, publish_ms=111 * DAY_MS))
    tokenizer.take(event(4, publish_ms=90 * DAY_MS))
    index = tokenizer.next_index()
    assert index is not None
    assert (index.rows([1, 2, 3, 4]) >= 0).tolist() == [False, True, True, False]


def test_what_cannot_be_encoded_is_refused_and_changes_nothing(built: Result) -> None:
    tokenizer = online(built)
    with pytest.raises(ValueError, match="item 5: neither its content"):
        tokenizer.take(ItemEvent(item=Item(item_id=5)))
    with pytest.raises(ValueError, match=f"must be {WIDTH} wide, row 0 has one of 2"):
        tokenizer.take(ItemEvent(item=Item(item_id=5), content=[[1.0, 2.0]]))
    assert tokenizer.next_index() is None


def test_another_tokenizers_index_is_refused(built: Result, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", make_sessions(seed=9), content=True)
    other = build_index(log, small(), tmp_path, 2)
    with pytest.raises(ValueError, match="was made by tokenizer"):
        OnlineTokenizer(built.tokenizer, other.index, OnlineSettings())


def test_where_all_items_would_go_the_newest_stays_until_others_come(built: Result) -> None:
    tokenizer = online(built, max_age_days=10)
    for item in built.index.item_ids.tolist():
        tokenizer.take(event(item, removed=True))
    index = tokenizer.next_index()
    assert index is not None
    (last,) = index.item_ids.tolist()
    assert tokenizer.next_index() is None
    assert tokenizer.removed == [last]
    tokenizer = OnlineTokenizer(built.tokenizer, index, tokenizer.settings, removed=tokenizer.removed)  # after a restart
    tokenizer.take(event(1, publish_ms=100 * DAY_MS))
    index = tokenizer.next_index()
    assert index is not None
    assert index.item_ids.tolist() == [1]  # what stayed was to go
    tokenizer.take(event(2, publish_ms=200 * DAY_MS))  # and nothing came for so long that the other one expires
    tokenizer.next_index()
    tokenizer.take(event(3, publish_ms=201 * DAY_MS))
    index = tokenizer.next_index()
    assert index is not None
    assert index.item_ids.tolist() == [2, 3]
    assert last not in index.item_ids
    assert tokenizer.waiting == 0


def test_what_is_removed_last_and_comes_again_stays(built: Result) -> None:
    tokenizer = online(built)
    for item in built.index.item_ids.tolist():
        tokenizer.take(event(item, removed=True))
    index = tokenizer.next_index()
    assert index is not None
    (last,) = index.item_ids.tolist()
    assert tokenizer.take(event(last, seed=1)) == "new"
    tokenizer.next_index()
    assert tokenizer.index.item_ids.tolist() == [last]
    assert tokenizer.waiting == 0


def test_items_that_equal_the_catalogues_land_on_codes_in_use(built: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, vectors = online(built), np.asarray(built.index.vectors)
    monkeypatch.setattr(tokenizer, "_vectors", lambda events: vectors[[one.item.item_id for one in events]])
    for k in range(len(vectors)):
        tokenizer.take(event(k))
    index = tokenizer.next_index()
    assert index is not None
    assert tokenizer.drift.empty_share == 0  # whatever free IDs were then chosen for them
