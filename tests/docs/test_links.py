from __future__ import annotations

import re

import pytest

from tests.docs.printed import NAMES, ROOT, anchors

LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    broken = []
    for link in LINK.findall(path.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        files = [link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link]
        waiting += [(page.parent / file).resolve() for file in files if file.endswith(".md")]
    assert {ROOT / name for name in NAMES} <= reached
