"""An index of 10 million items builds in 2 minutes and 4 GiB, looks up a million keys a second, and swaps within 10 ms.

The keys are random, half of them legal, none looked up twice, on one core, through the public methods of a memory-mapped
snapshot. The value is `ItemIndex.head_items` in batches of 4096 (8 users x 512 candidates); the rival is a plain binary
search over the same arrays. The swap: a thread looks up keys in a loop while `IndexFollower` loads the next snapshot, just
written on this machine, behind it. Its stall is what it waits in one iteration: for the interpreter lock, a page or its
core.

On a virtual machine an iteration may take tens of milliseconds, swap or no swap (see ``longest_idle_ms``): the host does not
run a core, and the thread seems to run. `benchmarks.pauses` witnesses that. What it saw of the reader's core is taken off an
iteration's wall time, and nothing else; from an iteration that slept also what it saw of the other cores, one of which may
have had the interpreter lock. All this means something only on a machine that is otherwise idle: see
``load_average_before``.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import BenchResult, Claim, Floor, Race, race, seconds
from benchmarks.index_build import CODES, LEVELS, SNAPSHOTS, TAGS, WIDTH
from benchmarks.pauses import Pause, Witnesses, taken
from common.item_index import IndexFollower, ItemIndex, snapshot_path
from common.messages import NO_ITEM
from common.worker import prefer_latency

ITEMS = 10_000_000
KEYS = 1 << 20
"""Keys looked up in one measurement."""
BATCH, READER_BATCH = 4096, 512
IDLE_S, AFTER_S = 2.0, 0.5
"""How long the reader is watched before a snapshot appears, and after it was taken up."""
ROUNDS = 12
MINUTES, GIB, KEYS_PER_S, STALL_MS = 2.0, 4.0, 1e6, 10.0
Codes = npt.NDArray[np.int32]
Say = Callable[[str], None]
Lookup = Callable[[npt.NDArray[Any]], object]


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - the catalogue is synthetic
    """Build, look up and swap 10 million items; takes minutes and 12 GB of temporary disk."""
    return measure(ITEMS, KEYS, ROUNDS, on_progress)


def measure(items: int, keys: int, rounds: int, on_progress: Say) -> BenchResult:
    """The benchmark for any number of items; ``rounds`` times two swaps."""
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="index-bench-") as name:
        folder = Path(name)
        on_progress(f"building an index of {items:,} items and saving {SNAPSHOTS} snapshots")
        build = _build(folder, items)
        on_progress("looking up")
        timed, rates, floor = _lookups(ItemIndex.load(snapshot_path(folder, 1)), keys)
        on_progress("swapping")
        swaps = _swaps(folder, rounds)
    return BenchResult(
        name="index",
        value=1e9 * timed.value / keys,
        unit="ns per key",
        rival=1e9 * timed.rival_value / keys,
        ratio=timed.ratio,
        spread=timed.spread,
        floor=Floor(value=floor, what="one random read of the keys and, for the legal half, of bucket starts and of items"),
        details={
            "claims": _claims(build, rates, swaps),
            "setting": {"items": items, "codes": CODES, "levels": LEVELS, "tags": TAGS, "vectors": f"{WIDTH} x float32"},
            "load_average_before": busy,
            "build": build,
            "million_keys_per_second": rates,
            "swaps": swaps,
        },
    )


def _claims(build: dict[str, float], rates: dict[str, dict[int, float]], swaps: dict[str, Any]) -> list[Claim]:
    took = build["build_s"] + build["save_s"]
    slowest = min(rate for by_batch in rates.values() for batch, rate in by_batch.items() if batch >= BATCH)
    stalls = [swap["stall_ms"] for swap in swaps["swaps"]]
    return [
        Claim(claim="built and saved within 2 minutes", holds=took <= 60 * MINUTES, figures={"seconds": took}),
        Claim(
            claim="built within 4 GiB of peak resident memory, the given columns included",
            holds=build["peak_gib"] <= GIB,
            figures={key: build[key] for key in ("peak_gib", "columns_gib")},
        ),
        Claim(
            claim=f"a million keys per second on one core, every kind of lookup, in batches of {BATCH} and more",
            holds=slowest * 1e6 >= KEYS_PER_S,
            figures={"slowest, million per second": slowest},
        ),
        Claim(
            claim="no swap stalls a reader for 10 ms, what the host takes apart",
            holds=max(stalls) < STALL_MS,
            figures={
                key: [swap[key] for swap in swaps["swaps"]]
                for key in ("stall_ms", "stall_idle_ms", "longest_ms", "longest_idle_ms")
            },
        ),
    ]


def _build(folder: Path, items: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index_build", str(folder), str(items)]
    told = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, timeout=1800)
    found: dict[str, float] = json.loads(told.stdout)
    return found


def _random_sids(index: ItemIndex, count: int, seed: int) -> Codes:
    """SIDs (count, K) in random order, half of them of random items."""
    rng = np.random.default_rng([count, seed])
    sids = rng.integers(0, CODES, (count, LEVELS), np.int32)
    legal = rng.permutation(count)[: count // 2]
    sids[legal] = index.sids[rng.integers(0, len(index), len(legal))]
    return sids


def _plain_head_items(index: ItemIndex, sids: Codes) -> npt.NDArray[np.int64]:
    """`ItemIndex.head_items` by one binary search over all keys, in the order given."""
    keys = sids.astype(np.int64) @ (CODES ** np.arange(LEVELS - 1, -1, -1))
    legal = index.trie.leaf_keys
    at = np.minimum(np.searchsorted(legal, keys), len(legal) - 1)
    in_range = ((sids >= 0) & (sids < CODES)).all(-1)
    return np.where(in_range & (legal[at] == keys), index.bucket_items[index.bucket_starts[at]], NO_ITEM)


def _lookups(index: ItemIndex, keys: int) -> tuple[Race, dict[str, dict[int, float]], float]:
    """Ours beside the rival's; million keys per second of one core, by lookup and batch size; the floor in ns per key."""
    index.warm_up()
    batches = [_random_sids(index, BATCH, seed) for seed in range(keys // BATCH)]
    timed = race(lambda: _each(index.head_items, batches), lambda: _each(partial(_plain_head_items, index), batches))
    rates: dict[str, dict[int, float]] = {}
    for size in (512, BATCH, 1 << 16, keys):
        sids = [_random_sids(index, size, seed) for seed in range(max(1, keys // size))]
        rng = np.random.default_rng(size)
        known = [index.item_ids[rng.integers(0, len(index), size)] for _ in sids]
        ids = [np.where(rng.random(size) < 0.5, one, rng.integers(0, index.item_ids[-1], size)) for one in known]
        lookups: list[tuple[Lookup, Sequence[npt.NDArray[Any]]]] = [
            (index.head_items, sids), (index.leaves, sids), (index.is_legal, sids), (index.rows, ids)
        ]  # fmt: skip
        for lookup, given in lookups:
            began = time.thread_time()
            _each(lookup, given)
            rates.setdefault(lookup.__name__, {})[size] = size * len(given) / (time.thread_time() - began) / 1e6
    return timed, rates, 1e9 * seconds(partial(_touch, index, keys)) / keys


def _each(lookup: Lookup, batches: Sequence[npt.NDArray[Any]]) -> None:
    for batch in batches:
        lookup(batch)


def _touch(index: ItemIndex, count: int) -> None:
    rng = np.random.default_rng(0)
    half = count // 2
    for column, reads in ((index.trie.leaf_keys, count), (index.bucket_starts, half), (index.bucket_items, half)):
        column[rng.integers(0, len(column), reads)].max()


@dataclass(frozen=True)
class _Clocks:
    """What this thread has done so far, and where it is (Linux)."""

    wall_s: float
    ran_s: float
    queued_s: float  # could have run, but its core ran something else
    sleeps: int  # for the interpreter lock, for a page of a file
    faults: int
    core: int

    @staticmethod
    def read() -> _Clocks:
        task = Path(f"/proc/self/task/{threading.get_native_id()}")
        used = resource.getrusage(resource.RUSAGE_THREAD)
        return _Clocks(
            wall_s=time.perf_counter(),
            ran_s=time.thread_time(),
            queued_s=int((task / "schedstat").read_text().split()[1]) / 1e9,
            sleeps=used.ru_nvcsw + used.ru_majflt,
            faults=used.ru_minflt,
            core=int((task / "stat").read_text().rpartition(")")[2].split()[36]),
        )

    def until(self, after: _Clocks) -> tuple[float, ...]:
        """What was done until then: the fields of `_Iteration` but for its times."""
        ran_ms, queued_ms = 1e3 * (after.ran_s - self.ran_s), 1e3 * (after.queued_s - self.queued_s)
        return ran_ms, queued_ms, after.sleeps - self.sleeps, after.faults - self.faults, after.core


@dataclass(frozen=True)
class _Iteration:
    """One iteration of the reader."""

    began_s: float
    ended_s: float
    ran_ms: float
    queued_ms: float
    sleeps: int
    faults: int
    core: int

    @staticmethod
    def all_of(rows: array[float]) -> list[_Iteration]:
        """What `_Reader` noted."""
        return [_Iteration(*row[:4], *map(int, row[4:])) for row in np.array(rows).reshape(-1, len(fields(_Iteration)))]

    @property
    def wall_ms(self) -> float:
        return 1e3 * (self.ended_s - self.began_s)

    def stall_ms(self, pauses: dict[int, list[Pause]]) -> float:
        """What it took without the pauses that it met."""
        cores = pauses if self.sleeps else [self.core]
        met = [pause for core in cores for pause in pauses[core]]
        return self.wall_ms - 1e3 * taken(self.began_s, self.ended_s, met)


@dataclass(frozen=True)
class _Reader:
    """Looks up batches with the current snapshot."""

    follower: IndexFollower
    batches: list[Codes]

    def until(self, done: Callable[[], bool]) -> array[float]:
        """Iterate until something is done; the fields of `_Iteration`, one after the other.

        They are plain numbers, because objects would have the garbage collector look through them in the middle of it.
        """
        noted = array("d")
        before, count = _Clocks.read(), 0
        while not done():
            self.follower.current.head_items(self.batches[count % len(self.batches)])
            after = _Clocks.read()
            noted.extend((before.wall_s, after.wall_s, *before.until(after)))
            before, count = after, count + 1
        return noted

    def for_s(self, duration_s: float) -> array[float]:
        """Iterate for a while."""
        end = time.perf_counter() + duration_s
        return self.until(lambda: time.perf_counter() > end)


def _into_page_cache(snapshot: Path) -> None:
    """Read a snapshot's files, as if this machine had written them a moment ago."""
    for path in snapshot.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _swaps(folder: Path, rounds: int) -> dict[str, Any]:
    """The longest stall around each swap, and in a window before it in which nothing happens."""
    with Witnesses() as witnesses:
        swaps = [swap for _ in range(rounds) for swap in _round(folder, witnesses)]
        paused = {core: sum(end - start for start, end in pauses) for core, pauses in witnesses.pauses().items()}
    return {"reader_batch": READER_BATCH, "paused_s": paused, "swaps": swaps}


def _round(folder: Path, witnesses: Witnesses) -> Iterator[dict[str, Any]]:
    """Snapshots appear one after the other; the second swap lets the first snapshot go."""
    hidden = {version: snapshot_path(folder, version).rename(folder / f"later-{version}") for version in (2, 3)}
    follower = IndexFollower(folder)
    reader = _Reader(follower, [_random_sids(follower.current, READER_BATCH, seed) for seed in range(200)])
    prefer_latency()  # as every worker does
    try:
        for version, path in hidden.items():
            _into_page_cache(path)
            noted = reader.for_s(IDLE_S)
            path.rename(snapshot_path(folder, version))
            began = time.perf_counter()
            loading = reader.until(follower.poll)
            took = time.perf_counter() - began
            idle, around = _Iteration.all_of(noted), _Iteration.all_of(loading + reader.for_s(AFTER_S))
            pauses = witnesses.pauses()
            worst = max(around, key=lambda one: one.stall_ms(pauses))
            yield {
                "stall_ms": worst.stall_ms(pauses), "longest_ms": max(one.wall_ms for one in around),
                "usual_ms": median(one.wall_ms for one in idle),
                "stall_idle_ms": max(one.stall_ms(pauses) for one in idle),
                "longest_idle_ms": max(one.wall_ms for one in idle),
                "load_s": took, "lookups_meanwhile": len(loading) // len(fields(_Iteration)),
                "worst": asdict(worst) | {"wall_ms": worst.wall_ms, "after_s": worst.began_s - began},
                "load_average": os.getloadavg()[0],
            }  # fmt: skip
    finally:
        follower.close()
        gc.unfreeze()
