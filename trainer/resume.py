"""Where a run stands: opening its parts, restoring them from the newest checkpoint, or making the first one."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash

from common.endpoints import Endpoints
from common.features import Featurizer
from common.history import HistoryStore
from common.policy import build_policy, load_weights, packed_weights
from common.probes import PULSE
from common.session_log import SessionLog
from common.sessions import absorb, load_initial_histories
from common.settings import Settings
from common.stream import TOPICS, topic_name
from common.tensor_file import copies
from trainer.batches import Batch, warm_plays, warm_scores
from trainer.checkpoint import Checkpoint, CheckpointError, Identity, RunState, commit, load, load_latest
from trainer.duration_reward import PLAY_TIMES, PlayTimes
from trainer.frontier import Frontier
from trainer.indexes import Indexes
from trainer.journal import JournalEntry
from trainer.parallel import Ranks
from trainer.parts import gathered, part_of
from trainer.record_buffer import RecordBuffer
from trainer.run_log import RunLog
from trainer.session_filter import SessionFilter
from trainer.staleness import Staleness
from trainer.step import TrainingStep

SESSIONS, GROUPS = "sessions", "rollout-groups"
BOUND = ("run", "prefix", "partitions", "logs", "tokenizer_version", "ranks")
"""Facts that a checkpoint cannot be carried across; the others only end bit-identity."""
CATCH_UP = 1000
"""Records of the log that are put into a lost history store at a time."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """Everything that a step changes, on this rank. A checkpoint is its image, and nothing else is needed to go on."""

    identity: Identity
    training: TrainingStep
    session_filter: SessionFilter
    play_times: PlayTimes
    frontier: Frontier
    staleness: Staleness
    step: int = 0
    index_version: int = 0
    """Item index of the last step."""
    sessions: dict[int, int] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    filter_median_ms: float = 0.0
    """The filter's threshold after the last step's sessions; the filter itself may be ahead."""

    def advance(self, entry: JournalEntry, batch: Batch) -> None:
        """A step was executed: move the positions past what entered it, settle its groups, add to the counters."""
        self.step, self.index_version = entry.step, entry.index_version
        self.sessions |= {partition: end for partition, (_, end) in entry.ranges.items()}
        for settled in entry.groups:
            if settled.record:
                self.groups[settled.record[0]] = settled.record[1] + 1
            if settled.request:
                self.frontier.settle(settled.request)
            self.counters[f"groups.{settled.outcome}"] += 1
        self.counters.update(batch.counts)
        self.filter_median_ms = batch.filter_median_ms

    def image(self, indexes: list[int]) -> Checkpoint:
        """The checkpoint of the present state of all ranks: a copy, which later steps leave alone.

        ``indexes`` are the versions held, the one in force last.

        With several ranks a collective: all of them call it at the same step.
        """
        tensors = {f"optimizer.{name}": tensor for name, tensor in copies(self.training.state_dict()).items()}
        tensors |= {f"filter.{name}": torch.from_numpy(array) for name, array in self.session_filter.state().items()}
        tensors |= {f"plays.{name}": torch.from_numpy(array) for name, array in self.play_times.state().items()}
        state = RunState(
            step=self.step,
            identity=self.identity,
            sessions=dict(self.sessions),
            groups=dict(self.groups),
            frontier=self.frontier.state(),
            indexes=indexes,
            versions=[*self.staleness.versions, self.step],
            counters=dict(self.counters),
        )
        return gathered(Checkpoint(packed_weights(self.training.policy), tensors, state), self.training.ranks)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint's state, as far as it is this rank's."""
        checkpoint = part_of(checkpoint, self.training.ranks)
        state = checkpoint.state
        load_weights(self.training.policy, checkpoint.policy)
        self.training.load_state_dict(_under("optimizer.", checkpoint.trainer))
        self.session_filter.load_state({k: v.numpy() for k, v in _under("filter.", checkpoint.trainer).items()})
        self.play_times.load_state({k: v.numpy() for k, v in _under("plays.", checkpoint.trainer).items()})
        self.frontier = Frontier.from_state(state.frontier)
        self.staleness = Staleness(self.staleness.max_lag, state.versions, self.staleness.frozen)
        self.step, self.index_version = state.step, state.indexes[-1]
        self.sessions, self.groups = dict(state.sessions), dict(state.groups)
        self.counters = Counter(state.counters)


@dataclass(slots=True)
class OpenRun:
    """A run's parts on this rank, standing where its newest checkpoint stands."""

    folder: Path
    settings: Settings
    endpoints: Endpoints
    indexes: Indexes
    history: HistoryStore
    run: Run
    sessions: RecordBuffer
    groups: RecordBuffer

    @property
    def ranks(self) -> Ranks:
        """This process among those that train the run."""
        return self.run.training.ranks

    def topic(self, name: str) -> str:
        """Full name of one of the run's topics."""
        return topic_name(self.endpoints.prefix, name)

    def close(self) -> None:
        """Close readers, indexes and the history store."""
        self.sessions.reader.close()
        self.groups.reader.close()
        self.indexes.close()
        self.history.close()


def open_run(folder: Path, settings: Settings, ranks: Ranks, run_log: RunLog) -> OpenRun:
    """Open a run folder and restore its newest intact checkpoint; the first time, make that of step 0.

    Nothing of the run is opened on any rank before rank 0 calls this. ``run_log`` is where its topics are read from.

    Raises:
        CheckpointError: no checkpoint is intact, or it belongs to another run or another log.
        RanksError: another rank is gone.
        StreamError: the log does not have the checkpoint's positions, or no longer.
        ValueError: an item index that the checkpoint names is missing or damaged.
    """
    endpoints = Endpoints.read(folder)
    checkpoint = _newest(folder / "checkpoints", ranks)
    indexes = Indexes(folder / "index", settings.policy, checkpoint.state.indexes if checkpoint else [])
    history = HistoryStore(ranks.own_file(folder / "history.sqlite"))
    try:
        if history.is_empty:
            load_initial_histories(SessionLog.open(folder / "log"), history, settings.split.warm_days)
        run = _fresh_run(settings, indexes, _identity(settings, endpoints, run_log, indexes, ranks), ranks)
        if checkpoint is None:
            checkpoint = _first_checkpoint(folder, run, settings, indexes)
        _check_identity(checkpoint.state.identity, run.identity)
        run.restore(checkpoint)
        _catch_up(history, run.sessions, settings, run_log)
        sessions = RecordBuffer(run_log.reader(SESSIONS, run.sessions))
        groups = RecordBuffer(run_log.reader(GROUPS, run.groups))
        return OpenRun(folder, settings, endpoints, indexes, history, run, sessions, groups)
    except BaseException:
        history.close()
        indexes.close()
        raise


def _newest(folder: Path, ranks: Ranks) -> Checkpoint | None:
    """The newest intact checkpoint as rank 0 finds it; None where none was ever committed."""
    found = load_latest(folder) if ranks.leads else None
    step = ranks.told(-1 if found is None else found.state.step)[0][0]
    return found if ranks.leads or step < 0 else load(folder, step)


def _fresh_run(settings: Settings, indexes: Indexes, identity: Identity, ranks: Ranks) -> Run:
    policy = build_policy(settings.policy, settings.seed)
    training = TrainingStep(policy, Featurizer(settings.policy, indexes.current), settings, ranks)
    staleness = Staleness(settings.sync.max_lag, frozen=settings.sync.frozen)
    return Run(identity, training, SessionFilter(settings.filter), PlayTimes(PLAY_TIMES), Frontier(), staleness)


def _first_checkpoint(folder: Path, run: Run, settings: Settings, indexes: Indexes) -> Checkpoint:
    """Step 0: the pre-trained policy, filter and play times that know the warm window, every partition's beginning."""
    load_weights(run.training.policy, (folder / "pretrained" / "policy.safetensors").read_bytes())
    session_log, warm_days = SessionLog.open(folder / "log"), settings.split.warm_days
    run.session_filter.prime(warm_scores(session_log, warm_days))
    warm_plays(session_log, warm_days, run.play_times, settings.rl.duration_base)
    ranks, counts = run.training.ranks, run.identity.partitions
    run.sessions = {partition: 0 for partition in range(counts[SESSIONS]) if ranks.owns(partition)}
    run.groups = {partition: 0 for partition in range(counts[GROUPS]) if ranks.owns(partition)}
    checkpoint = run.image(indexes.versions)
    if ranks.leads:
        indexes.pin(indexes.versions[0])
        commit(folder / "checkpoints", checkpoint)
    return checkpoint


def _identity(settings: Settings, endpoints: Endpoints, run_log: RunLog, indexes: Indexes, ranks: Ranks) -> Identity:
    plain = settings.model_dump_json(exclude={"redis": True, "stream": {"bootstrap"}})
    return Identity(
        run=endpoints.run,
        prefix=endpoints.prefix,
        partitions={name: TOPICS[name].count(settings.stream.partitions) for name in (SESSIONS, GROUPS)},
        logs={name: run_log.identity(name) for name in (SESSIONS, GROUPS)},
        tokenizer_version=indexes.current.tokenizer_version,
        settings_digest=xxhash.xxh3_128_hexdigest(plain.encode()),
        machine=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        torch=str(torch.__version__),
        threads=torch.get_num_threads(),
        ranks=ranks.world,
    )


def _check_identity(saved: Identity, present: Identity) -> None:
    for name, value in saved.model_dump().items():
        now: Any = getattr(present, name)
        if value == now:
            continue
        if name in BOUND:
            raise CheckpointError(
                f"the checkpoint's {name} is {value!r}, but here it is {now!r}: it cannot be carried across"
            )
        log.warning(
            "%s was %r and is now %r: parameters will not be bit-identical to an uninterrupted run", name, value, now
        )


def _catch_up(history: HistoryStore, positions: dict[int, int], settings: Settings, run_log: RunLog) -> None:
    """Re-read the log into a history store that is behind the checkpoint (lost, or not yet on disk at a power cut)."""
    behind = {p: (history.end(p), end) for p, end in positions.items() if history.end(p) < end}
    if not behind:
        return
    log.warning("the history store is behind the checkpoint, re-reading %s", behind)
    for partition, (start, end) in behind.items():
        reader = run_log.reader(SESSIONS, {partition: start})  # one partition: what came of others would pile up in memory
        try:
            records = RecordBuffer(reader)
            for first in range(start, end, CATCH_UP):
                piece = {partition: (first, min(first + CATCH_UP, end))}
                absorb(records.take(piece, settings.stream.timeout_s), piece, history, settings.stream.partitions)
                history.commit()
                PULSE.beat()
        finally:
            reader.close()


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
