"""Snapshots on disk: a folder ``NNNNNN`` of npy files and a ``manifest.json``, written last, with their checksums.

A snapshot appears whole (its folder is renamed into place) and never changes. Reading one checks every byte of it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from common.durable import sync_folder

FORMAT = 3
MANIFEST = "manifest.json"
WRITE_BYTES, READ_BYTES = 32 << 20, 1 << 20
"""Written, or read, at once and hashed."""
YIELD_S = 1e-4
"""A pause after each file mapped: readers in other threads need not wait for the interpreter's switch interval (5 ms)."""
Arrays = dict[str, npt.NDArray[Any]]


def versions(folder: Path) -> list[int]:
    """Versions of the committed snapshots (``NNNNNN``) in a folder of snapshots, ascending."""
    names = [entry.name for entry in os.scandir(folder) if re.fullmatch(r"\d{6,}", entry.name)] if folder.is_dir() else []
    return sorted(int(name) for name in names if (folder / name / MANIFEST).is_file())


def snapshot_path(folder: Path, version: int) -> Path:
    """Where a folder of snapshots has this version."""
    return folder / f"{version:06d}"


def latest_index(folder: Path) -> Path:
    """The newest committed snapshot in a folder of snapshots.

    Raises:
        ValueError: there is none.
    """
    committed = versions(folder)
    if not committed:
        raise ValueError(f"{folder} holds no committed index snapshot")
    return snapshot_path(folder, committed[-1])


def read_note(folder: Path) -> dict[str, Any]:
    """The note that a snapshot was saved with.

    Raises:
        ValueError: not a committed snapshot, or its manifest is damaged.
    """
    note: dict[str, Any] = _read_manifest(folder)["note"]
    return note


def write_snapshot(folder: Path, head: dict[str, Any], arrays: Arrays, note: dict[str, Any]) -> None:
    """Write a snapshot as ``folder``: all of it or nothing. ``head`` and ``note`` are JSON.

    Raises:
        ValueError: the folder exists already (snapshots are immutable), or the note is no JSON.
    """
    if folder.exists():
        raise ValueError(f"index snapshot {folder} exists already, and snapshots are immutable")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = {name: _write_array(temporary / f"{name}.npy", array) for name, array in arrays.items()}
        manifest = _manifest_text({"format": FORMAT, **head, "note": note, "files": files})
        with (temporary / MANIFEST).open("wb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify_snapshot(folder: Path, core_share: float = 1.0) -> None:
    """Read every file of a committed snapshot once and compare its checksum, with at most this share of a core.

    Raises:
        ValueError: not a committed snapshot, another format, or a torn, changed or missing file (named).
    """
    for name, given in _read_manifest(folder)["files"].items():
        _verify_file(folder / f"{name}.npy", given, core_share)


def map_snapshot(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Manifest and memory-mapped arrays of a snapshot that has been verified (see `verify_snapshot`).

    Raises:
        ValueError: not a committed snapshot, or another format.
        OSError: a file is missing.
    """
    manifest, arrays = _read_manifest(folder), {}
    for name, given in manifest["files"].items():
        # By the manifest: to parse the file's own header takes five times as long, in which readers in other threads wait.
        shape, dtype = tuple(given["shape"]), np.dtype(given["dtype"])
        header = given["bytes"] - prod(shape) * dtype.itemsize
        arrays[name] = np.asarray(np.memmap(folder / f"{name}.npy", dtype, "r", header, shape))
        time.sleep(YIELD_S)
    return manifest, arrays


def _write_array(path: Path, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Write an npy file chunk by chunk, without a copy of the whole; what the manifest says of it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape})
    rows = max(1, WRITE_BYTES * len(array) // array.nbytes)
    digest = xxhash.xxh3_128(header.getvalue())
    with path.open("wb") as file:
        file.write(header.getvalue())
        for start in range(0, len(array), rows):
            chunk = np.ascontiguousarray(array[start : start + rows]).data.cast("B")
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "bytes": path.stat().st_size,
        "xxh3_128": digest.hexdigest(),
    }


def _verify_file(path: Path, given: dict[str, Any], core_share: float) -> None:
    if not path.is_file():
        raise ValueError(f"index file {path} is missing")
    if path.stat().st_size != given["bytes"]:
        raise ValueError(f"index file {path} is torn: {path.stat().st_size} bytes instead of {given['bytes']}")
    if _checksum(path, core_share) != given["xxh3_128"]:
        raise ValueError(f"index file {path} is corrupt: its checksum differs from the manifest's")


def _checksum(path: Path, core_share: float) -> str:
    digest, buffer = xxhash.xxh3_128(), np.empty(READ_BYTES, np.uint8).data
    with path.open("rb", buffering=0) as file:
        began = time.thread_time()
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
            if core_share < 1.0:
                time.sleep((time.thread_time() - began) * (1.0 / core_share - 1.0))
                began = time.thread_time()
    return digest.hexdigest()


def _manifest_text(body: dict[str, Any]) -> bytes:
    checksum = xxhash.xxh3_128_hexdigest(json.dumps(body, allow_nan=False).encode())
    return json.dumps(body | {"xxh3_128": checksum}, indent=2).encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is not a committed index snapshot: {MANIFEST} is missing")
    try:
        text = path.read_bytes()
        body: dict[str, Any] = json.loads(text)
        version = body["format"]
        del body["xxh3_128"]
        intact = version != FORMAT or _manifest_text(body) == text  # byte for byte: what was written and nothing else
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ValueError(f"index file {path} is corrupt")
    if version != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT}, got {version!r}; build the index again")
    return body
