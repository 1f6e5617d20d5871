"""Making what was written survive a power cut, and taking off what a writer did not come to the end of."""

from __future__ import annotations

import mmap
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk: a file that was created or renamed in it is there after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_torn_line(path: Path) -> None:
    """Take a last line without its newline off a file of lines: whoever was writing it died, or its disk was full. The next
    line would be appended to it, and neither could be read."""
    size = path.stat().st_size
    if size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        whole = data.rfind(b"\n") + 1
    if whole < size:
        os.truncate(path, whole)
