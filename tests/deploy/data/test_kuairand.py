import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.messages import Label, Session
from common.session_log import SessionLog
from deploy.data.kuairand import import_kuairand
from tests.deploy.data.tables_on_disk import shared_data, write_csv, write_json_lines

INTERACTIONS = (
    "user_id,video_id,time_ms,date,hourmin,tab,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand"
)
ITEMS = (
    "video_id,author_id,video_type,upload_dt,upload_type,video_duration,server_width,server_height,music_id,music_type,tag"
)
USERS = "user_id,user_active_degree,follow_user_num,follow_user_num_range,onehot_feat0,onehot_feat4"


def at(day: int, hour: int, minute: int = 0, second: int = 0) -> int:
    """A Beijing time of May 2023, unix ms."""
    return int((datetime(2023, 5, day, hour, minute, second, tzinfo=UTC) - timedelta(hours=8)).timestamp()) * 1000


def row(user: int, video: int, time_ms: int, day: int, hour: int, labels: str = "0,0,0,0,0,0,0", play: str = "500") -> str:
    return f"{user},{video},{time_ms},202305{day:02d},{hour * 100},1,{labels},{play},2000,0,0,0,0"


ROWS = [
    row(8, 2, at(2, 7), 2, 7, "1,0,0,0,0,0,1"),
    row(8, 1, at(1, 23, 58), 2, 0),  # logged after midnight
    row(8, 99, at(2, 6, 30), 2, 6, "1,1,1,1,1,1,0", play=""),
    row(5, 1, at(2, 5, 59), 2, 5),
    row(5, 2, at(3, 18), 3, 18),
]


def folder(path: Path, interactions: list[str] | None = None) -> Path:
    path.mkdir()
    write_csv(path / "interactions.csv.gz", INTERACTIONS, ROWS if interactions is None else interactions)
    items = [
        '2,70,NORMAL,2023-04-10,Web,3000.0,720.0,1280.0,44,9.0,"20,43"',
        "1,0,AD,2023-04-09,Web,,,,0,,",
    ]
    write_csv(path / "items.csv.gz", ITEMS, items)
    write_csv(path / "users.csv.gz", USERS, ['8,full_active,514,"(250,500]",1,2.0', "6,,3,0,-124,"])
    history = {"user_id": 6, "n": 4, "last_time_ms": 1, "watch": [1, 2, 1, 2], "like": [2, 3], "long_watch": [4, 1, 1, 1]}
    write_json_lines(path / "history_before_0425.jsonl.gz", [history])
    return path


@pytest.fixture
def log(tmp_path: Path) -> SessionLog:
    import_kuairand(folder(tmp_path / "raw"), tmp_path / "log", lambda _: None)
    return SessionLog.open(tmp_path / "log")


def shape(session: Session) -> tuple[int, int, list[int]]:
    return session.user_id, session.time_ms, [impression.item_id for impression in session.impressions]


def test_sessions_are_six_hour_windows_of_the_logged_hour_in_time_order(log: SessionLog) -> None:
    assert [shape(session) for session in log.sessions()] == [
        (8, at(2, 0), [1]),  # its time moved into its window, so that its day is the logged date
        (5, at(2, 5, 59), [1]),
        (8, at(2, 6, 30), [99, 2]),
        (5, at(3, 18), [2]),
    ]
    assert next(log.sessions()).impressions[0].time_ms == at(1, 23, 58)
    assert log.manifest.day0_ms == at(2, 0)
    assert [log.day_of(session.time_ms) for session in log.sessions()] == [0, 0, 0, 1]


def test_session_ids_are_unique_and_do_not_depend_on_the_order_of_rows(tmp_path: Path, log: SessionLog) -> None:
    import_kuairand(folder(tmp_path / "turned", ROWS[::-1]), tmp_path / "again", lambda _: None)
    sessions = list(log.sessions())
    assert sessions == list(SessionLog.open(tmp_path / "again").sessions())
    assert len({session.session_id for session in sessions}) == len(sessions)


def test_labels_come_from_their_columns_and_an_empty_number_is_zero(log: SessionLog) -> None:
    first, second = list(log.sessions())[2].impressions
    every = Label.CLICK | Label.LIKE | Label.FOLLOW | Label.COMMENT | Label.FORWARD | Label.DISLIKE
    assert (first.labels, first.play_ms, first.duration_ms, first.tab) == (every, 0, 2000, 1)
    assert (second.labels, second.play_ms) == (Label.CLICK | Label.LONG_VIEW, 500)
    assert log.manifest.positive_label == Label.CLICK


def test_items_keep_ids_and_missing_values_are_unknown(log: SessionLog) -> None:
    unknown, known = log.items()
    assert (known.item_id, known.author_id, known.tags, known.music_id, known.duration_ms) == (2, 70, [20, 43], 44, 3000)
    assert known.publish_ms == at(1, 0) - 21 * 86_400_000
    assert (unknown.item_id, unknown.author_id, unknown.tags, unknown.duration_ms) == (1, 0, [], 0)


def test_profiles_hold_categories_and_no_raw_counters(log: SessionLog) -> None:
    users = {user.user_id: user.profile for user in log.users()}
    fields = ["user_active_degree", "follow_user_num_range", "onehot_feat0", "onehot_feat4"]
    assert log.manifest.static_fields == fields
    codes = [zlib.crc32(b"full_active"), zlib.crc32(b"(250,500]"), 1, 2]
    assert users[8] == dict(zip(fields, codes, strict=True))
    assert users[6] == {"follow_user_num_range": 0, "onehot_feat0": zlib.crc32(b"-124")}
    assert users[5] == {}


def test_the_initial_history_puts_unwatched_lists_first_and_labels_the_latest_watches(log: SessionLog) -> None:
    history = next(user.history for user in log.users() if user.user_id == 6)
    click, like, long = Label.CLICK, Label.CLICK | Label.LIKE, Label.CLICK | Label.LONG_VIEW
    assert list(zip(history.item_id, history.labels, strict=True)) == [
        (3, like),
        (4, long),
        (1, long),  # the third long watch of 1 is older than the last watches
        (1, long),
        (2, click),
        (1, long),
        (2, like),
    ]
    assert set(history.time_ms) == {0}
    assert history.duration_ms == [0, 0, 0, 0, 3000, 0, 3000]


def test_a_window_with_more_impressions_than_a_message_holds_is_cut(tmp_path: Path) -> None:
    rows = [row(1, k, at(2, 1) + k, 2, 1) for k in range(1001)]
    import_kuairand(folder(tmp_path / "raw", rows), tmp_path / "log", lambda _: None)
    sessions = list(SessionLog.open(tmp_path / "log").sessions())
    assert [len(session.impressions) for session in sessions] == [1000, 1]
    assert sessions[0].session_id != sessions[1].session_id


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", [*ROWS, row(1, 1, at(2, 1), 2, 1).replace("202305", "2023-05")])
    with pytest.raises(ValueError, match=r"interactions\.csv\.gz line 7: date must be a date like %Y%m%d, got '2023-0502'"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)
    write_csv(raw / "interactions.csv.gz", INTERACTIONS, [",1" + ROWS[0][3:]])
    with pytest.raises(ValueError, match=r"line 2: user_id must be a whole number >= 0, got ''"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)
    write_csv(raw / "interactions.csv.gz", INTERACTIONS.replace("is_hate", "hated"), ROWS)
    with pytest.raises(ValueError, match=r"interactions\.csv\.gz: missing column is_hate"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)
    (raw / "users.csv.gz").unlink()
    with pytest.raises(ValueError, match=r"raw is not a KuaiRand folder: missing users\.csv\.gz"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)
    assert not (tmp_path / "log").exists()


def history(**changes: object) -> dict[str, object]:
    return {"user_id": 6, "watch": [1], "like": [], "long_watch": []} | changes


@pytest.mark.parametrize(
    ("file", "header", "rows", "told"),
    [
        ("items", ITEMS, ["2,70,NORMAL"], "line 2: has more or fewer cells than the header's 11"),
        ("users", USERS, ["8,a,1,b,1,2.0", "9,a,1,b,1,2.0,7"], "line 3: has more or fewer cells than the header's 6"),
        ("interactions", INTERACTIONS, [ROWS[0][:20]], "line 2: has more or fewer cells than the header's 19"),
        (
            "interactions",
            INTERACTIONS,
            [ROWS[0].replace(",700,1,", ",700,300,")],
            "line 2: tab: Input should be less",
        ),
        ("items", ITEMS, ['2,70,"NORMAL', *["," * 10] * 20_000], "is damaged: field larger than field limit"),
    ],
)
def test_a_row_that_is_none_is_named_by_file_and_line(
    file: str, header: str, rows: list[str], told: str, tmp_path: Path
) -> None:
    raw = folder(tmp_path / "raw")
    write_csv(raw / f"{file}.csv.gz", header, rows)
    with pytest.raises(ValueError, match=rf"^{raw}/{file}\.csv\.gz {told}"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (history(watch=None), "watch: Input should be a valid array"),
        (history(user_id=None), "user_id: Input should be a valid integer"),
        (history(like=[2, "x"]), "like.1: Input should be a valid integer"),
        ({"user_id": 6, "watch": [], "like": []}, "long_watch: Field required"),
    ],
)
def test_a_history_that_is_none_is_named_by_file_and_line(line: dict[str, object], told: str, tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw")
    write_json_lines(raw / "history_before_0425.jsonl.gz", [history(), line])
    with pytest.raises(ValueError, match=rf"history_before_0425\.jsonl\.gz line 2: {told}"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw")
    file = raw / "users.csv.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"users\.csv\.gz is damaged"):
        import_kuairand(raw, tmp_path / "log", lambda _: None)


def test_the_public_log_has_its_published_counts(tmp_path: Path) -> None:
    manifest = import_kuairand(shared_data("kuairand_pure"), tmp_path / "log", lambda _: None)
    assert (manifest.impressions, manifest.items, manifest.users) == (150_055, 7_583, 27_285)
    log = SessionLog.open(tmp_path / "log")
    users, days, last, count = set(), set(), 0, 0
    for session in log.sessions():
        assert session.time_ms >= last
        last = session.time_ms
        users.add(session.user_id)
        days.add(log.day_of(session.time_ms))
        count += 1
    assert len(users) == 23_651
    assert days == set(range(9))
    assert count == manifest.sessions
