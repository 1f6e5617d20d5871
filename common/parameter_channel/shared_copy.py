"""The newest parameters in a file that all readers of one machine share, so that one of them fetches for all."""

from __future__ import annotations

import io
import logging
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from common.parameter_channel.manifest import digest
from common.tensor_file import Parameters

Fetch = Callable[[IO[bytes]], bool]
"""Writes parameters into a file, or says that they cannot be had."""
log = logging.getLogger(__name__)


class SharedCopy:
    """A folder with the newest version that any reader here has fetched. Any of them may die at any moment."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        """``wait_s``: how long to wait for another reader that is fetching, before fetching oneself."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._lock = folder, FileLock(folder / "lock", timeout=wait_s)

    def get(self, version: int, checksum: str, fetch: Fetch) -> Parameters | None:
        """A version's parameters: those at hand, or what is fetched and kept for the others. None if they are not whole."""
        found = self.read(version, checksum)
        if found is not None:
            return found
        try:
            with self._lock:
                found = self.read(version, checksum)  # another reader may have fetched it meanwhile
                return self._fetched(version, checksum, fetch) if found is None else found
        except Timeout:
            log.warning("%s: another reader has been fetching for long", self._folder)
        except OSError as error:  # a full disk costs the sharing, nothing else
            log.warning("%s: version %d cannot be kept for other readers: %s", self._folder, version, error)
        own = io.BytesIO()
        return own.getvalue() if fetch(own) and digest(own.getvalue()) == checksum else None

    def read(self, version: int, checksum: str) -> mmap.mmap | None:
        """A version's parameters if they are at hand and whole: the file's own pages, also after it has been removed."""
        try:
            with self._file(version).open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
            return None
        return data if digest(data) == checksum else None

    def _fetched(self, version: int, checksum: str, fetch: Fetch) -> Parameters | None:
        """In place of all other versions, which stay until it is there: it may be made from one of them."""
        building = self._folder / "building"
        with building.open("wb") as file:
            fetched = fetch(file)
        if not fetched:
            return None
        building.replace(self._file(version))
        for other in self._folder.glob("*.safetensors"):
            if other != self._file(version):
                other.unlink(missing_ok=True)
        return self.read(version, checksum)

    def _file(self, version: int) -> Path:
        return self._folder / f"{version:08d}.safetensors"
