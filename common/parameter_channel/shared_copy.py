"""The newest parameters in a file that all readers of one machine share, so that one of them fetches for all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from common.parameter_channel.manifest import digest

log = logging.getLogger(__name__)


class SharedCopy:
    """A folder with the newest version that any reader here has fetched. Any of them may die at any moment."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        """``wait_s``: how long to wait for another reader that is fetching, before fetching oneself."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder, self._lock = folder, FileLock(folder / "lock", timeout=wait_s)

    def get(self, version: int, checksum: str, fetch: Callable[[], bytes | None]) -> bytes | None:
        """A version's parameters: those at hand, or what ``fetch`` gives, which is kept for the others."""
        found = self.read(version, checksum)
        if found is not None:
            return found
        try:
            with self._lock:
                found = self.read(version, checksum)  # another reader may have fetched it meanwhile
                if found is None:
                    found = fetch()
                    if found is not None:
                        self._keep(version, found)
                return found
        except Timeout:
            log.warning("%s: another reader has been fetching for long", self._folder)
            return fetch()

    def read(self, version: int, checksum: str) -> bytes | None:
        """A version's parameters if they are at hand and whole."""
        try:
            data = self._file(version).read_bytes()
        except FileNotFoundError:
            return None
        return data if digest(data) == checksum else None

    def _keep(self, version: int, data: bytes) -> None:
        """In place of all others. A full disk costs the sharing, nothing else."""
        building = self._folder / "building"
        try:
            building.write_bytes(data)
            building.replace(self._file(version))
        except OSError as error:
            log.warning("%s: version %d could not be kept for other readers: %s", self._folder, version, error)
        for other in self._folder.glob("*.safetensors"):
            if other != self._file(version):
                other.unlink(missing_ok=True)

    def _file(self, version: int) -> Path:
        return self._folder / f"{version:08d}.safetensors"
