from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.messages import Label
from common.session_log import DAY_MS, SessionLog
from deploy.data.amazon import import_amazon
from tests.deploy.data.tables_on_disk import shared_data, write_csv, write_json_lines

DAY_S = 86_400
NAIL, FACE = ["Beauty", "Makeup", "Nails"], ["Beauty", "Skin Care", "Face"]
ITEMS: list[dict[str, Any]] = [
    {"item": 2, "asin": "B", "title": "Red", "categories": [["Gifts"], NAIL], "attributes": ["OPI", "Makeup", "Nails"]},
    {"item": 1, "asin": "A", "title": None, "categories": [FACE], "attributes": ["Skin Care", "Face"]},
    {"item": 3, "asin": "C", "title": "Bare", "categories": [], "attributes": []},
]
EVENTS = [  # user,item,pos,n,rel_time_s,timestamp; rows in any order
    f"4,1,1,3,0,{100 * DAY_S}",
    f"4,2,0,3,0,{100 * DAY_S}",
    f"4,3,2,3,{DAY_S},{101 * DAY_S}",
    "7,3,0,2,0,",
    f"7,1,1,2,{2 * DAY_S},",
    f"5,2,0,1,0,{102 * DAY_S}",
    f"6,2,0,1,0,{103 * DAY_S}",
]


def folder(path: Path, events: list[str] = EVENTS) -> Path:
    path.mkdir()
    write_csv(path / "interactions.csv.gz", "user,item,pos,n,rel_time_s,timestamp", events)
    write_json_lines(path / "items.jsonl.gz", ITEMS)
    np.save(path / "minilm_l6_v2_f16.npy", np.arange(12, dtype=np.float16).reshape(3, 4))
    return path


@pytest.fixture
def log(tmp_path: Path) -> SessionLog:
    import_amazon(folder(tmp_path / "raw"), tmp_path / "log", lambda _: None)
    return SessionLog.open(tmp_path / "log")


def test_events_are_sessions_in_strict_order_of_a_users_positions(log: SessionLog) -> None:
    sessions = [(s.user_id, s.impressions[0].item_id, s.time_ms) for s in log.sessions()]
    assert sessions == [
        (4, 2, 100 * DAY_MS),
        (4, 1, 100 * DAY_MS + 1),
        (4, 3, 101 * DAY_MS + 2),
        (5, 2, 102 * DAY_MS),
        (7, 3, 102 * DAY_MS),  # without dates: the median first day, then relative times
        (6, 2, 103 * DAY_MS),
        (7, 1, 104 * DAY_MS + 1),
    ]
    assert {s.impressions[0].labels for s in log.sessions()} == {int(Label.CLICK)}
    assert [log.day_of(s.time_ms) for s in log.sessions()] == [0, 0, 1, 2, 2, 3, 4]


def test_items_carry_category_levels_brand_and_their_own_vector(log: SessionLog) -> None:
    first, second, third = log.items()
    assert [item.item_id for item in (first, second, third)] == [1, 2, 3]
    assert (second.title, second.category, first.title) == ("Red", "Beauty > Makeup > Nails", "")
    assert len(second.tags) == len(set(second.tags)) == 3
    assert first.tags[0] == second.tags[0]
    assert not {*first.tags[1:]} & {*second.tags}
    assert (first.author_id, second.author_id, third.author_id) == (0, 1, 0)
    assert (third.tags, third.category) == ([], "")
    content = log.content()
    assert content is not None
    np.testing.assert_array_equal(content.tokens[:, 0], np.arange(12, dtype=np.float32).reshape(3, 4))


def test_a_user_whose_days_run_backwards_keeps_the_order_of_positions(tmp_path: Path) -> None:
    events = [f"4,1,0,2,0,{100 * DAY_S}", f"4,2,1,2,0,{99 * DAY_S}"]
    import_amazon(folder(tmp_path / "raw", events), tmp_path / "log", lambda _: None)
    assert [s.impressions[0].item_id for s in SessionLog.open(tmp_path / "log").sessions()] == [1, 2]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw", ["4,1,0,2,0,", "4,2,1,2,0,"])
    with pytest.raises(ValueError, match="no user has timestamps"):
        import_amazon(raw, tmp_path / "log", lambda _: None)
    np.save(raw / "minilm_l6_v2_f16.npy", np.zeros((2, 4), np.float16))
    with pytest.raises(ValueError, match=r"must have a row for every item up to 3, got \(2, 4\)"):
        import_amazon(raw, tmp_path / "log", lambda _: None)
    (raw / "items.jsonl.gz").unlink()
    with pytest.raises(ValueError, match=r"raw is not an Amazon reviews folder: missing items\.jsonl\.gz"):
        import_amazon(raw, tmp_path / "log", lambda _: None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"title": "x"}, "item: Field required"),
        ({"item": 0}, "item: Input should be greater than or equal to 1"),
        ({"item": 4, "categories": "Beauty"}, "categories: Input should be a valid array"),
        ({"item": 4, "categories": ["Beauty"]}, "categories.0: Input should be a valid array"),
    ],
)
def test_an_item_that_is_none_is_named_by_file_and_line(line: dict[str, Any], told: str, tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw")
    write_json_lines(raw / "items.jsonl.gz", [*ITEMS, line])
    with pytest.raises(ValueError, match=rf"items\.jsonl\.gz line 4: {told}"):
        import_amazon(raw, tmp_path / "log", lambda _: None)


def test_vectors_that_are_damaged_are_named(tmp_path: Path) -> None:
    raw = folder(tmp_path / "raw")
    (raw / "minilm_l6_v2_f16.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"minilm_l6_v2_f16\.npy is damaged: No data left in file"):
        import_amazon(raw, tmp_path / "log", lambda _: None)


@pytest.mark.slow
def test_the_public_log_has_its_published_counts(tmp_path: Path) -> None:
    manifest = import_amazon(shared_data("amazon_beauty"), tmp_path / "log", lambda _: None)
    assert (manifest.users, manifest.items, manifest.impressions) == (22_363, 12_101, 198_502)
