from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.history import HistoryStore
from common.messages import Item
from deploy.dashboard.samples import SHOWN, WATCHED, Recommended, Sampler, Shown, about, compared
from deploy.local.run_folder import RunFolder


def test_both_versions_recommend_what_the_user_has_not_been_shown(recorded: RunFolder) -> None:
    sample = Sampler(recorded).sample(1)
    with HistoryStore(recorded.path / "history.sqlite") as history:
        events = history.as_of(1, 0, 0, 1000)
    assert [made.version for made in sample.lists] == [5, 9]
    assert (sample.events, sample.index_version) == (len(events), 1)
    assert [one.item_id for one in sample.watched] == events.item_id[::-1][:WATCHED].tolist()
    for made in sample.lists:
        items = [one.item_id for one in made.items]
        assert len(set(items)) == len(items) == SHOWN
        assert not set(items) & set(events.item_id.tolist())
        assert all(one.log_prob < 0 for one in made.items)
    assert sample.lists == Sampler(recorded).sample(1).lists


def test_the_pretrained_policy_alone_makes_one_list(recorded: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(recorded.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (made,) = Sampler(RunFolder.open(tmp_path / "run")).sample(1).lists
    assert made.version == 0


def test_what_is_missing_is_named(recorded: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="user 424242 is not known to this run"):
        Sampler(recorded).sample(424242)
    shutil.copytree(recorded.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "pretrained"))
    with pytest.raises(ValueError, match="holds no parameters yet"):
        Sampler(RunFolder.open(tmp_path / "run")).sample(1)


def test_items_are_told_how_they_moved() -> None:
    before = [Shown(item, "", "") for item in (1, 2, 3)]
    after = [Shown(item, "", "") for item in (3, 1, 4)]
    first, last = compared([Recommended(10, before), Recommended(20, after)])
    assert [one.moved for one in first.items] == [0, 0, 0]
    assert [one.moved for one in last.items] == [2, -1, None]


def test_an_item_is_told_by_what_is_known_of_it() -> None:
    def told(**known: object) -> list[str]:
        return [part.replace("\N{NO-BREAK SPACE}", " ") for part in about(Item.model_validate({"item_id": 7, **known}))]

    assert told(category="sport > football", author_id=3, duration_ms=42_100) == ["football", "author 3", "42 s"]
    assert told(tags=[5, 8]) == ["category 8"]
    assert told() == []
