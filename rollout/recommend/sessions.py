"""The endpoint's own view of users' histories: it follows the sessions topic, since a user's next list depends on the last.

consumes:     sessions (Kafka)
produces:     the history store of this endpoint (disk)
waits for:    sessions
unblocked by: new records, `close`
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from pathlib import Path
from threading import Event

from common.context import Context
from common.endpoints import Endpoints
from common.history import HistoryStore, context_events, ranges_between
from common.log_interval import beginnings
from common.metrics import RECOMMEND_STREAM_LAG
from common.session_log import SessionLog
from common.sessions import absorb, load_initial_histories
from common.settings import Settings
from common.stream import TOPICS, LogReader, check_topics, partition_of, topic_name

POLL_S = 0.05
POLL_RECORDS = 200
"""Few, since whoever reads histories waits for the interpreter while they are taken in."""
REST_S = 0.25
"""Between two looks when there is no more to read: looking all the time takes from who generates."""
log = logging.getLogger(__name__)


class SessionFollower:
    """Keeps a history store up to date, from a thread of its own. What does not validate is the trainer's to report."""

    def __init__(self, folder: Path, endpoints: Endpoints, settings: Settings) -> None:
        """Open the store ``RUN/recommend/history.sqlite`` and begin to follow; a lost store is read again from the log.

        What the log no longer has is missing in the histories: a list that does without a user's older sessions is better
        than none.

        Raises:
            StreamError: a topic is missing, or has another number of partitions.
            HistoryError: the store is damaged.
        """
        check_topics(endpoints.kafka, endpoints.prefix, settings.stream.partitions, settings.stream.timeout_s)
        self.path = folder / "recommend" / "history.sqlite"
        self.path.parent.mkdir(exist_ok=True)
        self.caught_up = Event()
        """Set once everything that was there at first has been read."""
        self.failure: Exception | None = None
        """Why following ended before `close`."""
        self._stop = Event()
        self._partitions = settings.stream.partitions
        with HistoryStore(self.path) as history:
            if history.users() == 0:
                load_initial_histories(SessionLog.open(folder / "log"), history, settings.split.warm_days)
            topic = topic_name(endpoints.prefix, "sessions")
            begins = beginnings(endpoints.kafka, topic, settings.stream.timeout_s)
            start = {p: _begin(history, p, begins[p]) for p in range(TOPICS["sessions"].count(self._partitions))}
        self._reader = LogReader(endpoints.kafka, topic, start, settings.stream.timeout_s)
        self._thread = threading.Thread(target=self._follow, name="session-follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following and close the connections."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        try:
            with closing(self._reader), closing(HistoryStore(self.path)) as history:
                while not self._stop.is_set():
                    self._take(history)
        except Exception as error:  # whatever it is, nobody else would notice that histories stand still
            self.failure = error
            log.exception("no longer following sessions")

    def _take(self, history: HistoryStore) -> None:
        before = dict(self._reader.positions)
        records = self._reader.poll(POLL_RECORDS, POLL_S)
        absorb(records, ranges_between(before, self._reader.positions), history, self._partitions)
        history.commit()
        lag = self._reader.lag()
        for partition, behind in lag.items():
            RECOMMEND_STREAM_LAG.labels(partition).set(behind)
        if not any(lag.values()):
            self.caught_up.set()
            self._stop.wait(REST_S)


def _begin(history: HistoryStore, partition: int, first: int) -> int:
    """The next position to read of a partition, of which the log has those from ``first`` on."""
    end = history.end(partition)
    if end < first:
        log.warning("partition %d: the log begins at %d, histories lack the sessions from %d on", partition, first, end)
        history.advance(partition, first)
        history.commit()
    return history.end(partition)


class Histories:
    """Reads contexts from the store that a `SessionFollower` writes. Of one thread."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._store = HistoryStore(path)
        self._partitions = settings.stream.partitions
        self._events = context_events(settings.policy)

    def context(self, user_id: int, time_ms: int, tab: int) -> Context:
        """What is known of a user now; an unknown one has an empty history."""
        partition = partition_of(user_id, self._partitions)
        events = self._store.as_of(user_id, partition, self._store.end(partition), self._events)
        return Context(user_id, time_ms, tab, self._store.profile(user_id), events)

    def close(self) -> None:
        """Close the store."""
        self._store.close()
