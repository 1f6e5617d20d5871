"""The online learner: the preference model goes on learning from the sessions topic, and its versions are committed.

``python -m reward_service.online --run-folder RUN``; SIGTERM ends it after a last version.

consumes:     sessions (Kafka)
produces:     preference models (disk)
waits for:    sessions
unblocked by: new records, the stop event
"""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt

from common.compute import compute_with
from common.context import Context
from common.endpoints import Endpoints
from common.history import HistoryStore, ranges_between
from common.item_index import IndexFollower
from common.metrics import (
    REWARD_LEARNER_AUC,
    REWARD_LEARNER_IMPRESSIONS,
    REWARD_LEARNER_STREAM_LAG,
    REWARD_LEARNER_VERSION,
)
from common.probes import PULSE
from common.session_log import SessionLog
from common.sessions import PlacedSession, absorb, load_initial_histories
from common.settings import Settings, load_settings
from common.stream import TOPICS, LogReader, Record, StreamError, check_topics, topic_name
from common.worker import run_worker, say_ready
from reward_service.artefact import load_artefact, prune_artefacts, save_artefact
from reward_service.exposures import Exposures
from reward_service.fit import judged_figures
from reward_service.inputs import SEARCH_WINDOW, InputBuilder
from reward_service.labels import OBJECTIVES, Labels
from reward_service.preference_model import Outputs

POLL_S = 0.2
POLL_RECORDS = 500
log = logging.getLogger("reward_service.online")


class OnlineLearner:
    """Carries the newest model forward. Its card holds the stream positions: no session is learned from twice or missed.

    Every batch is judged before it is learned from; a version's report is of the impressions since the version before.
    """

    def __init__(self, folder: Path, kafka: str, prefix: str, settings: Settings) -> None:
        """Open the run's newest model and read on from the positions that its card names.

        Raises:
            ValueError: there is no model, no item index, or they do not belong together.
            StreamError: a topic is missing or has another number of partitions, or the log no longer has the positions.
        """
        check_topics(kafka, prefix, settings.stream.partitions, settings.stream.timeout_s)
        self.models, self.settings = folder / "reward", settings
        artefact = load_artefact(self.models)
        self.card = artefact.card
        self.learner = artefact.learner(settings.reward.learning_rate)
        self.waiting: list[PlacedSession] = []
        self.judged: list[tuple[Outputs, Labels, npt.NDArray[np.int64]]] = []
        with ExitStack() as opened:
            self.indexes = opened.enter_context(closing(IndexFollower(folder / "index")))
            self._check_tokenizer()
            self.builder = InputBuilder(self.card.shape, self.indexes.current)
            self.history = opened.enter_context(HistoryStore(self.models / "history.sqlite"))
            if self.history.users() == 0:
                load_initial_histories(SessionLog.open(folder / "log"), self.history, settings.split.warm_days)
            partitions = range(TOPICS["sessions"].count(settings.stream.partitions))
            self.learned = {partition: self.card.positions.get(partition, 0) for partition in partitions}
            # a history that was lost, or not yet on disk at a power cut, is read again, but not learned from again
            start = {partition: min(end, self.history.end(partition)) for partition, end in self.learned.items()}
            topic = topic_name(prefix, "sessions")
            self.reader = opened.enter_context(closing(LogReader(kafka, topic, start, settings.stream.timeout_s)))
            self._opened = opened.pop_all()

    def run(self, stop: Event) -> None:
        """Follow until ``stop``; what waits then is still learned and published."""
        while not stop.is_set():
            PULSE.beat()
            self.take(POLL_S)
            if sum(len(labels) for _, labels, _ in self.judged) >= self.settings.reward.online.publish_every:
                self.publish()
        self.publish()

    def take(self, timeout_s: float) -> None:
        """Read what there is, and learn from whole batches of it."""
        before = dict(self.reader.positions)
        records = self.reader.poll(POLL_RECORDS, timeout_s)
        self.waiting += self._new(records, before)
        while sum(len(one.session.impressions) for one in self.waiting) >= self.settings.reward.batch:
            self._learn()
        for partition, lag in self.reader.lag().items():
            REWARD_LEARNER_STREAM_LAG.labels(partition).set(lag)

    def publish(self) -> None:
        """Commit the next version, if anything was learned, and remove those that nobody needs."""
        while self.waiting:
            self._learn()
        if not self.judged:
            return
        outputs, parts, users = zip(*self.judged, strict=True)
        labels = Labels(np.concatenate([one.values for one in parts]), np.concatenate([one.known for one in parts]))
        objectives = judged_figures(outputs, labels, np.concatenate(users), self.learner.weights)
        self.history.commit()
        positions = {p: max(end, self.learned[p]) for p, end in self.reader.positions.items()}
        self.card = save_artefact(
            self.models,
            self.learner,
            self.builder.index,
            {"judged": len(labels), "objectives": objectives},
            clicks_recorded=self.card.clicks_recorded,
            positions=positions,
        )
        prune_artefacts(self.models, self.settings.reward.online.keep)
        self.judged.clear()
        log.info("committed preference model %s, judged on %d impressions", self.card.version, len(labels))
        REWARD_LEARNER_VERSION.set(int(self.card.version.partition("-")[0]))
        for name in OBJECTIVES:
            if (auc := objectives[name]["auc"]) is not None:
                REWARD_LEARNER_AUC.labels(name).set(auc)

    def close(self) -> None:
        """Close the connections and the history store."""
        self._opened.close()

    def _check_tokenizer(self) -> None:
        ours, theirs = self.card.tokenizer_version, self.indexes.current.tokenizer_version
        if ours != theirs:
            raise ValueError(
                f"model {self.card.version} was trained with tokenizer {ours!r}, the item index is of {theirs!r}"
            )

    def _new(self, records: list[Record], before: dict[int, int]) -> list[PlacedSession]:
        """Sessions that have not been learned from, in the order of time; those that do not validate are the trainer's to
        report."""
        ranges = ranges_between(before, self.reader.positions)
        placed, _, _ = absorb(records, ranges, self.history, self.settings.stream.partitions)
        new = [one for one in placed if one.position[1] >= self.learned[one.position[0]]]
        return sorted(new, key=lambda one: (one.session.time_ms, one.position))

    def _learn(self) -> None:
        """From the first of the waiting sessions, as many as make up a batch."""
        sizes = np.cumsum([len(one.session.impressions) for one in self.waiting])
        taken = int(np.searchsorted(sizes, self.settings.reward.batch)) + 1
        batch, self.waiting = self.waiting[:taken], self.waiting[taken:]
        self.indexes.poll()
        if self.builder.index is not self.indexes.current:
            self.builder = InputBuilder(self.card.shape, self.indexes.current)
        contexts = [self._context(one) for one in batch]
        sessions = [one.session for one in batch]
        clicks = self.card.clicks_recorded
        exposures = Exposures.of_sessions(sessions, contexts, self.builder.index, self.card.shape, clicks)
        if len(exposures):
            _, outputs = self.learner.step(self.builder(exposures.requests, exposures.targets), exposures.labels)
            self.judged.append((outputs, exposures.labels, exposures.user))
            REWARD_LEARNER_IMPRESSIONS.inc(len(exposures))

    def _context(self, placed: PlacedSession) -> Context:
        session, (partition, offset) = placed.session, placed.position
        events = self.history.as_of(session.user_id, partition, offset, SEARCH_WINDOW)
        return Context(session.user_id, session.time_ms, 0, self.history.profile(session.user_id), events)


def follow(folder: Path, stop: Event, metrics_url: str = "") -> None:
    """Open a run and learn from its sessions until ``stop``, if it is to; says in ``ready/learner.json`` when it does."""
    compute_with(threads=1)
    endpoints, settings = Endpoints.read(folder), load_settings(folder / "settings.json")
    if not settings.reward.online.on:
        log.info("reward.online.publish_every is 0: the preference model stays as it is")
        say_ready(folder, "learner", metrics=metrics_url)
        while not stop.wait(POLL_S):
            PULSE.beat()
        return
    learner = OnlineLearner(folder, endpoints.kafka, endpoints.prefix, settings)
    try:
        say_ready(folder, "learner", metrics=metrics_url)
        learner.run(stop)
    finally:
        learner.close()


if __name__ == "__main__":
    errors = (ValueError, StreamError, OSError)
    sys.exit(run_worker("reward_service.online", "The preference model's online learner of one run.", follow, errors))
