from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from common.messages import Item
from tokenizer_job.quality.page import write_page
from tokenizer_job.quality.prefixes import item_categories
from tokenizer_job.quality.report import assess
from tokenizer_job.quantizers.codebooks import ResidualCodebooks

EVIL = "<script>alert('x')</script>"


def page(path: Path, category: str) -> str:
    rng = np.random.default_rng(0)
    model = ResidualCodebooks(rng.normal(size=(2, 8, 4)).astype(np.float32))
    vectors = rng.normal(size=(60, 4)).astype(np.float32)
    items = [Item(item_id=k, title=EVIL if k % 2 else "", category=category) for k in range(60)]
    sids = model.encode(vectors)
    write_page(path, assess(model, vectors, sids, item_categories(items)), items, sids, model, vectors)
    return path.read_text()


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(tmp_path_factory.mktemp("page") / "page.html", category="<b>soap</b>")


def test_titles_are_text_and_never_markup(html: str) -> None:
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<b>soap" not in html


def test_it_needs_nothing_from_outside(html: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"|@import|url\((?!#)', html)


def test_an_item_without_title_is_shown_by_its_id(html: str) -> None:
    assert re.search(r"<li>item \d+<", html)


def test_the_plots_are_well_formed_and_take_the_colour_of_the_page(html: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        ElementTree.fromstring(plot)  # noqa: S314 - written by ourselves just now
        assert "currentColor" in plot


def test_the_same_report_gives_the_same_bytes(html: str, tmp_path: Path) -> None:
    assert page(tmp_path / "page.html", category="<b>soap</b>") == html


def test_without_categories_purity_is_left_out(tmp_path: Path) -> None:
    without = page(tmp_path / "page.html", category="")
    assert without.count("<svg") == 3
    assert "purity" not in without
