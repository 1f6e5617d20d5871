"""``python -m deploy.reference``: write what the code tells into the pages, or say that they are behind (``--check``)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.reference.pages import GENERATED, with_block

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> int:
    """0; with ``--check`` 1 when a page does not say what the code says."""
    parser = argparse.ArgumentParser(prog="python -m deploy.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name the pages that are behind")
    check = parser.parse_args().check
    behind = []
    for page, (name, make) in GENERATED.items():
        path = DOCS / page
        old = path.read_text()
        new = with_block(old, name, make())
        if new != old:
            behind.append(page)
            if not check:
                path.write_text(new)
    sys.stderr.write(f"{'behind' if check else 'written'}: {', '.join(behind) or 'none'}\n")
    return 1 if check and behind else 0


if __name__ == "__main__":
    sys.exit(main())
