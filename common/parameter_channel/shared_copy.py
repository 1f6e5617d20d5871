"""The newest parameters in a file that all readers of one machine share, so that one of them fetches for all.

The file is in memory (`MEMORY`), where there is such a folder; it goes with its last reader. What readers left that were
killed is removed by the next one to begin, of whatever run.
"""

from __future__ import annotations

import fcntl
import io
import logging
import mmap
import os
import platform
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import xxhash
from filelock import FileLock, Timeout

from common.parameter_channel.manifest import digest
from common.tensor_file import Parameters

Fetch = Callable[[IO[bytes]], bool]
"""Writes parameters into a file, or says that they cannot be had."""
MEMORY = Path("/dev/shm")  # noqa: S108 - not for temporary files of guessable names: a folder of this user alone
READERS, GONE = "readers", ".gone"
ENTRIES = 1000
log = logging.getLogger(__name__)


class SharedCopy:
    """A folder with the newest version that any reader here has fetched. Any of them may die at any moment."""

    def __init__(self, run_folder: Path, kind: str, wait_s: float) -> None:
        """One for each kind of parameters of a run.

        Args:
            run_folder: names the run; holds the copies where they cannot be in memory.
            kind: the precision.
            wait_s: how long to wait for another reader that is fetching, before fetching oneself.
        """
        whose = xxhash.xxh3_64_hexdigest(str(run_folder.resolve()).encode())
        home = _own(MEMORY / f"onerec-{os.getuid()}") or _own(run_folder / f"parameters-{platform.node()}")
        if home is None:
            raise PermissionError(f"{run_folder} must belong to this user and be writable, to keep parameters there")
        for left in home.iterdir():
            _remove_unused(left)
        self.folder = home / f"{whose}-{kind}"
        self._lock = FileLock(self.folder / "lock", timeout=wait_s)
        self._reading = _enter(self.folder)

    def close(self) -> None:
        """Stop reading; the last reader leaves nothing."""
        os.close(self._reading)
        _remove_unused(self.folder)

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
            log.warning("%s: another reader has been fetching for long", self.folder)
        except OSError as error:  # a full disk costs the sharing, nothing else
            log.warning("%s: version %d cannot be kept for other readers: %s", self.folder, version, error)
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
        building = self.folder / "building"
        with building.open("wb") as file:
            fetched = fetch(file)
        if not fetched:
            return None
        building.replace(self._file(version))
        for other in self.folder.glob("*.safetensors"):
            if other != self._file(version):
                other.unlink(missing_ok=True)
        return self.read(version, checksum)

    def _file(self, version: int) -> Path:
        return self.folder / f"{version:08d}.safetensors"


def _own(folder: Path) -> Path | None:
    """A folder that nobody else can enter, made now unless it is there; None where that cannot be."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private and os.access(folder, os.W_OK) else None


def _enter(folder: Path) -> int:
    """Be one of a folder's readers until the descriptor is closed, or this process ends, however it ends."""
    for _ in range(ENTRIES):
        with suppress(FileNotFoundError, FileExistsError):  # its last reader has just removed it
            folder.mkdir(exist_ok=True)
            reading = os.open(folder / READERS, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(reading, fcntl.LOCK_SH)
            if _is(folder / READERS, reading):
                return reading
            os.close(reading)
    raise FileNotFoundError(f"{folder} was removed each of {ENTRIES} times that it was made")


def _is(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at a path, now that its lock has been had."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    return False


def _remove_unused(folder: Path) -> None:
    """Remove a folder of copies unless somebody reads it."""
    if folder.suffix == GONE:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        reading = os.open(folder / READERS, os.O_RDWR)
    except OSError:
        return
    try:
        with suppress(BlockingIOError):  # somebody reads it: then it is not to be removed
            fcntl.flock(reading, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(folder / READERS, reading):
                gone = folder.with_name(f"{secrets.token_hex(8)}{GONE}")
                folder.rename(gone)  # so that nothing is removed which a reader puts there that begins just now
                shutil.rmtree(gone, ignore_errors=True)
    finally:
        os.close(reading)
