from __future__ import annotations

import pytest

from common.metric_catalogue import CATALOGUE
from common.settings import PROFILES, Settings
from common.stream import TOPICS
from deploy.reference import pages
from deploy.reference.__main__ import DOCS
from deploy.reference.pages import GENERATED, with_block
from deploy.reference.schema import tables


@pytest.mark.parametrize("page", GENERATED)
def test_pages_say_what_the_code_says(page: str) -> None:
    text = (DOCS / page).read_text()
    name, make = GENERATED[page]
    assert with_block(text, name, make()) == text, f"docs/{page} is behind: run python -m deploy.reference"


def test_every_setting_is_explained() -> None:
    unexplained = [f"{table.place}.{row[0]}" for table in tables(Settings) for row in table.rows if not row[3]]
    assert unexplained == []


def test_every_topic_has_its_message_and_its_row() -> None:
    assert set(pages.TOPICS) == set(TOPICS)
    rows = [line.split("|")[1:] for line in (DOCS / "contracts.md").read_text().splitlines() if line.startswith("| `")]
    kept = {row[0].strip(" `"): row[5].strip() for row in rows if len(row) == 7}
    assert kept == {
        name: f"{days} day{'s' * (days > 1)}"
        for name, days in ((s.name, s.retention_ms // 86_400_000) for s in TOPICS.values())
    }


def test_a_block_is_replaced_and_nothing_else() -> None:
    page = "head\n<!-- begin x (python -m deploy.reference) -->\nold\n<!-- end x -->\ntail\n"
    assert with_block(page, "x", "new") == page.replace("old", "new")


@pytest.mark.parametrize("page", ["no marks", "<!-- begin x (python -m deploy.reference) -->\nno end"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="must hold"):
        with_block(page, "x", "new")


def test_the_page_lists_every_shipped_profile() -> None:
    text = (DOCS / "configuration.md").read_text()
    listed = text[text.index("## Profiles") : text.index("## Every setting")]
    assert [path.stem for path in PROFILES.glob("*.toml") if f"`{path.stem}`" not in listed] == []


def test_every_metric_has_its_row() -> None:
    text = (DOCS / "metrics.md").read_text()
    assert [name for name in CATALOGUE if f"| `{name}` |" not in text] == []
