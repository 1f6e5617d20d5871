"""What the pages print: shell commands and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
INLINE = re.compile(r"`((?:\.venv/bin/)?onerec [a-z][^`]*|make [a-z-]+)`")


@dataclass(frozen=True)
class Command:
    """A command as a page prints it, split into words; ``block``: in a block, to be typed, not named in a sentence."""

    words: tuple[str, ...]
    block: bool

    @property
    def program(self) -> str:
        """Its first word, without the folder."""
        return self.words[0].rpartition("/")[2]

    def __str__(self) -> str:
        return shlex.join(self.words)


def commands(page: str) -> list[Command]:
    """The commands of a page's ``sh`` blocks in order, then those named in its sentences."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    typed = [Command(tuple(words), True) for line in lines if (words := shlex.split(line, comments=True))]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return typed + [Command(tuple(shlex.split(found)), False) for found in INLINE.findall(prose) if "…" not in found]


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
