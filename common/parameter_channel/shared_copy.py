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
from typing import IO, Protocol

import xxhash
from filelock import FileLock, Timeout

from common.parameter_channel.manifest import digest
from common.tensor_file import Parameters


class Sink(Protocol):
    """Where fetched bytes go."""

    def write(self, data: Parameters | memoryview, /) -> object:
        """Take the next ones."""
        ...


Fetch = Callable[[Sink], bool]
"""Writes parameters, or says that they cannot be had."""
MEMORY = Path("/dev/shm")  # noqa: S108 - not for temporary files of guessable names: a folder of this user alone
READERS, GONE, BUILDING = "readers", ".gone", "building"
ENTRIES = 1000
POLL_S = 0.005
"""How often a reader looks whether another one has done fetching."""
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
        memory = _own(MEMORY / f"onerec-{os.getuid()}")
        home = memory or _own(run_folder / f"parameters-{platform.node()}")
        if home is None:
            raise PermissionError(f"{run_folder} must belong to this user and be writable, to keep parameters there")
        for left in home.iterdir():
            _remove_unused(left)
        self.folder = home / f"{whose}-{kind}"
        self._in_memory = memory is not None
        self._lock = FileLock(self.folder / "lock", timeout=wait_s, poll_interval=POLL_S)
        self._reading = _enter(self.folder)

    def close(self) -> None:
        """Stop reading; the last reader leaves nothing."""
        os.close(self._reading)
        _remove_unused(self.folder)

    def get(self, version: int, checksum: str, fetch: Fetch) -> Parameters | None:
        """A version's parameters: those at hand, or what is fetched and kept for the others. None if they are not whole."""
        found = self._at_hand(version, checksum)
        if found is not None:
            return found
        try:
            with self._lock:
                found = self._at_hand(version, checksum)  # another reader may have fetched it meanwhile
                return self._fetched(version, checksum, fetch) if found is None else found
        except Timeout:
            log.warning("%s: another reader has been fetching for long", self.folder)
        except OSError as error:  # a full disk costs the sharing, nothing else
            log.warning("%s: version %d cannot be kept for other readers: %s", self.folder, version, error)
        own = io.BytesIO()
        return own.getvalue() if fetch(own) and digest(own.getvalue()) == checksum else None

    def read(self, version: int, checksum: str) -> mmap.mmap | None:
        """A version's parameters if they are at hand and, looked at again, whole."""
        data = self._mapped(version, checksum)
        return data if data is not None and digest(data) == checksum else None

    def _at_hand(self, version: int, checksum: str) -> Parameters | None:
        """What is in memory was looked at by the reader that fetched it, before it got its name.

        What is on a disk is looked at again, and copied: who has it keeps it, and pages of a disk that fails end a process.
        """
        if self._in_memory:
            return self._mapped(version, checksum)
        held = self.read(version, checksum)
        return None if held is None else bytes(held)

    def _mapped(self, version: int, checksum: str) -> mmap.mmap | None:
        """The file's own pages. Nobody writes to them while they are mapped, whatever becomes of the file's name."""
        path = self._file(version, checksum)
        gone = (FileNotFoundError, BlockingIOError, ValueError)  # or being written to, or empty, which cannot be mapped
        with suppress(*gone), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the mapping goes: it has the descriptor, too
            if _is(path, file.fileno()):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return None

    def _fetched(self, version: int, checksum: str, fetch: Fetch) -> Parameters | None:
        """In place of all other versions, which stay until it is there: it may be made from one of them.

        The memory of the version before is kept for the next one: to find new pages takes longer than to fill them.
        """
        file, building = self._file(version, checksum), self.folder / BUILDING
        with _to_be_written(building) as raw:
            checked = _Checked(raw)
            if not fetch(checked) or checked.hexdigest() != checksum:
                return None
            raw.truncate()
            building.replace(file)
        for other in sorted(set(self.folder.glob("*.safetensors")) - {file}):
            other.replace(building) if self._in_memory else other.unlink()
        return self._at_hand(version, checksum)

    def _file(self, version: int, checksum: str) -> Path:
        return self.folder / f"{version:08d}-{checksum}.safetensors"


class _Checked:
    """Writes into a file and remembers the checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, xxhash.xxh3_128()

    def write(self, data: Parameters | memoryview, /) -> None:
        """All of it."""
        self._file.write(data)
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()


def _to_be_written(path: Path) -> IO[bytes]:
    """A file that nobody maps: the one that is there, or a new one in its place."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a reader has not let go of that version yet
        file.close()
        path.unlink()
        return path.open("w+b")
    return file


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
