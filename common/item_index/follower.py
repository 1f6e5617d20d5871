"""Following a folder of snapshots: newer ones are loaded in the background and swapped in between two uses.

Consumes: committed snapshots. Produces: the current and the previous one. Waits for: `get`, a named version's load.
Unblocked by: the loading thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path

from common.item_index.index import ItemIndex
from common.item_index.snapshot import snapshot_path, verify_snapshot, versions
from common.item_index.verification import Verifier
from common.lookout import Lookout

LOOK_EVERY_S = 0.5
AGAIN_S = 10.0
"""After which a snapshot that could not be read is tried again: there were too many open files, a disk was away."""
HELD = 2
"""Snapshots kept: the current and the previous one."""
log = logging.getLogger(__name__)


class IndexFollower:
    """The current and the previous snapshot of a folder of snapshots. Safe to call from several threads.

    A snapshot that is torn, corrupt or another tokenizer's is refused and logged once, one that could not be read for
    `AGAIN_S`; what is held stays.
    """

    def __init__(self, folder: Path, first: int | None = None) -> None:
        """Load the snapshot ``first``, or the newest one that is whole, and the one before it if there is one.

        Raises:
            ValueError: there is none, or ``first`` cannot be loaded.
            OSError: ``first`` cannot be read.
        """
        self._folder = folder
        self._refused: dict[int, float] = {}
        """Snapshots, and until when (`time.monotonic`)."""
        self._verifier = Verifier()
        try:
            self._held = self._open_first(first)
        except (ValueError, OSError):
            self._verifier.close()
            raise
        self._lock = threading.Lock()
        self._lookout = Lookout[ItemIndex]("index-loader")

    @property
    def held(self) -> dict[int, ItemIndex]:
        """The snapshots by version, the current one last."""
        return self._held

    @property
    def current(self) -> ItemIndex:
        """The newest snapshot taken up."""
        held = self._held
        return held[max(held)]

    @property
    def refused(self) -> int:
        """Snapshots that are refused."""
        return sum(map(self._refuses, list(self._refused)))

    def poll(self) -> bool:
        """Take up a newer snapshot if one has been loaded; whether ``current`` changed now.

        Cheap: another thread looks into the folder every `LOOK_EVERY_S`, and loads. Even to list a folder may wait for the
        file system's journal.
        """
        with self._lock:
            return self._take_up(self._lookout.poll(partial(self._look, self.current), LOOK_EVERY_S))

    def get(self, version: int) -> ItemIndex | None:
        """The snapshot of a version, loaded now if it is committed but not held; None if it is gone.

        A newer one becomes current. An older one, that was skipped or let go, takes the place of the previous one.
        """
        while version > self.current.version and not self._refuses(version) and version in versions(self._folder):
            wait([self._lookout.ask(partial(self._load_apart, version, self.current))])
            with self._lock:
                self._take_up(self._lookout.taken())
        with self._lock:
            held = self._held
            if version not in held and not self._refuses(version) and version in versions(self._folder):
                index = self._load_apart(version, self.current)
                self._held = held if index is None else {version: index, self.current.version: self.current}
            return self._held.get(version)

    def close(self) -> None:
        """Stop loading. What is held stays readable."""
        self._lookout.close()
        self._verifier.close()

    def _take_up(self, index: ItemIndex | None) -> bool:
        if index is None:
            return False
        held = {**self._held, index.version: index}
        gone = [held.pop(version) for version in sorted(held)[:-HELD]]
        self._held = held
        self._lookout.aside(gone.clear)  # to unmap gigabytes takes milliseconds that a reader should not wait
        return True

    def _open_first(self, first: int | None) -> dict[int, ItemIndex]:
        held = {} if first is None else {first: self._open(first, verify_snapshot)}
        for version in reversed(versions(self._folder)):
            if len(held) < HELD and (first is None or version < first):
                index = self._load(version, next(iter(held.values()), None), verify_snapshot)
                held |= {} if index is None else {version: index}
        if not held:
            raise ValueError(f"{self._folder} holds no committed index snapshot that can be loaded")
        return dict(sorted(held.items()))

    def _open(self, version: int, verify: Callable[[Path], None]) -> ItemIndex:
        index = ItemIndex.load(snapshot_path(self._folder, version), verify)
        if index.version != version:
            raise ValueError(f"{snapshot_path(self._folder, version)} holds the item index of version {index.version}")
        index.warm_up()
        return index

    def _look(self, current: ItemIndex) -> ItemIndex | None:
        """The newest snapshot, if it is newer than the current one and not refused."""
        newer = [v for v in versions(self._folder) if v > current.version and not self._refuses(v)]
        return self._load_apart(newer[-1], current) if newer else None

    def _load_apart(self, version: int, like: ItemIndex) -> ItemIndex | None:
        """As `_load`, beside readers that must not be held up."""
        return self._load(version, like, self._verifier)

    def _load(self, version: int, like: ItemIndex | None, verify: Callable[[Path], None]) -> ItemIndex | None:
        """A snapshot of the same tokenizer as another one's; None if it is refused."""
        try:
            index = self._open(version, verify)
            if like is not None and _kind(index) != _kind(like):
                raise ValueError(
                    f"(tokenizer, codes, levels) must be {_kind(like)} as in index {like.version}, got {_kind(index)}"
                )
        except (ValueError, OSError) as error:
            log.warning("item index %d is refused: %s", version, error)
            self._refused[version] = time.monotonic() + AGAIN_S if isinstance(error, OSError) else math.inf
            return None
        return index

    def _refuses(self, version: int) -> bool:
        return time.monotonic() < self._refused.get(version, 0.0)


def _kind(index: ItemIndex) -> tuple[str, int, int]:
    return index.tokenizer_version, index.codes, index.levels
