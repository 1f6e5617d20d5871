from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.content import Content
from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import DAY_MS, LogManifest, LogWriter, SessionLog

NOON = 1_000 * DAY_MS + DAY_MS // 2


def session(name: str, time_ms: int, user: int = 1, size: int = 1) -> Session:
    impressions = [Impression(item_id=k, time_ms=time_ms + k, play_ms=5, labels=Label.CLICK) for k in range(size)]
    return Session(session_id=name, user_id=user, time_ms=time_ms, impressions=impressions)


def write(path: Path, sessions: list[Session], content: Content | None = None, offset: int = 0) -> LogManifest:
    items = [Item(item_id=7, tags=[1, 2], title="ü"), Item(item_id=3)]
    users = [
        User(
            user_id=1, profile={"age": 4}, history=Events(item_id=[7], time_ms=[0], play_ms=[0], duration_ms=[0], labels=[1])
        )
    ]
    return LogWriter(path, "test", Label.CLICK, ["age"], offset).write(items, users, sessions, content)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    sessions = [session("a", NOON), session("b", NOON + 5, user=9, size=3)]
    content = np.arange(6, dtype=np.float32).reshape(2, 3)
    manifest = write(tmp_path / "log", sessions, Content.of(content))
    log = SessionLog.open(tmp_path / "log")
    assert log.manifest == manifest
    assert (manifest.items, manifest.users, manifest.sessions, manifest.impressions) == (2, 1, 2, 4)
    assert (manifest.static_fields, manifest.positive_label) == (["age"], 1)
    assert [item.item_id for item in log.items()] == [7, 3]
    assert log.items()[0].title == "ü"
    assert [user.history.item_id for user in log.users()] == [[7]]
    assert list(log.sessions()) == sessions
    read = log.content()
    assert read is not None
    np.testing.assert_array_equal(read.tokens, content[:, None])


def test_items_may_have_several_content_vectors_or_none(tmp_path: Path) -> None:
    content = Content.of_lists([[[1.0, 2.0], [3.0, 4.0]], []], 2)
    write(tmp_path / "log", [session("a", NOON)], content)
    read = SessionLog.open(tmp_path / "log").content()
    assert read is not None
    np.testing.assert_array_equal(read.tokens, content.tokens)
    np.testing.assert_array_equal(read.mask, [[True, True], [False, False]])
    np.testing.assert_array_equal(read.pooled(), [[2.0, 3.0], [0.0, 0.0]])


def test_bytes_depend_on_the_messages_only(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, [session("a", NOON)])
    for file in ("items.jsonl.gz", "sessions.jsonl.gz", "log.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_days_count_from_the_first_sessions_day_and_include_both_ends(tmp_path: Path) -> None:
    write(tmp_path / "log", [session(f"day{day}", NOON + day * DAY_MS) for day in (0, 1, 3, 4)])
    log = SessionLog.open(tmp_path / "log")
    assert log.day_of(NOON + DAY_MS) == 1
    assert log.day_of(NOON - DAY_MS) == -1
    assert [s.session_id for s in log.sessions(1, 3)] == ["day1", "day3"]
    assert [s.session_id for s in log.sessions(first_day=3)] == ["day3", "day4"]
    assert list(log.sessions(2, 2)) == []


@given(first=st.integers(0, 10**12), offset_hours=st.integers(-12, 14))
def test_day0_is_local_midnight_at_or_before_the_first_session(
    tmp_path_factory: pytest.TempPathFactory, first: int, offset_hours: int
) -> None:
    offset = offset_hours * 3_600_000
    day0 = write(tmp_path_factory.mktemp("log") / "log", [session("a", first)], offset=offset).day0_ms
    assert 0 <= first - day0 < DAY_MS
    assert (day0 + offset) % DAY_MS == 0


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"time order: b at {NOON - 1} follows {NOON}"):
        write(tmp_path / "log", [session("a", NOON), session("b", NOON - 1)])
    with pytest.raises(ValueError, match="has no sessions"):
        write(tmp_path / "log", [])
    with pytest.raises(ValueError, match=r"one row per item \(2\), got 3"):
        write(tmp_path / "log", [session("a", NOON)], Content.of(np.zeros((3, 3))))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_log_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "log", [session("a", NOON)])
    with pytest.raises(ValueError, match="already exists"):
        write(tmp_path / "log", [session("b", NOON)])
    assert [s.session_id for s in SessionLog.open(tmp_path / "log").sessions()] == ["a"]


def test_a_folder_that_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a session log folder: missing log\.json"):
        SessionLog.open(tmp_path)
    write(tmp_path / "log", [session("a", NOON)])
    (tmp_path / "log" / "users.jsonl.gz").unlink()
    with pytest.raises(ValueError, match=r"is not a session log folder: missing users\.jsonl\.gz"):
        SessionLog.open(tmp_path / "log")
    (tmp_path / "log" / "log.json").write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="upgrade consumers first"):
        SessionLog.open(tmp_path / "log")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "log", [session("a", NOON)])
    file = tmp_path / "log" / "sessions.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"sessions\.jsonl\.gz is damaged"):
        list(SessionLog.open(tmp_path / "log").sessions())


def test_extra_arrays_travel_with_the_log(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log", "test", 1, [])
    writer.write([], [], [session("a", NOON)], extra={"truth/quality": np.ones(3)})
    assert np.load(tmp_path / "log" / "truth" / "quality.npy", allow_pickle=False).sum() == 3
