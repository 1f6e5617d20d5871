"""Looks at a run again and again: its folder, its workers' metrics, its dead letters.

consumes:     files of the run folder, /metrics of the workers, dead-letters (Kafka)
produces:     `LoopState`
waits for:    a worker or broker that does not answer, 2 s at most
unblocked by: those bounds
"""

from __future__ import annotations

import math
import time
from collections import deque

from common.item_index import versions
from common.stream import StreamError
from deploy.dashboard.course import Meter
from deploy.dashboard.figures import FigureReader
from deploy.dashboard.parts import PartsLook, alive, metrics_endpoints
from deploy.dashboard.scrape import Scrape, Scraper
from deploy.dashboard.state import OVER, CheckpointState, Letters, LoopState, Stage
from deploy.local.letters import Letter, LetterBox
from deploy.local.phase import STREAMING, Phase, read_phase
from deploy.local.run_folder import RunFolder, read_json

BROKER_S = 2.0
COUNTED_MS = 60_000
"""Workers that take batches count in jumps."""
USERS_MS = 120_000
"""What a topic holds is told when a reader fetches from it, and one that has plenty fetches rarely."""
LETTERS_EVERY_S = 5.0
KEPT_LETTERS = 20
COUNTERS = {
    "scored items": ("reward", "onerec_reward_items_scored_total"),
    "impressions": ("learner", "onerec_reward_learner_impressions_total"),
    "item events": ("tokenizer", "onerec_tokenizer_items_total"),
    "lists": ("recommend", "onerec_recommend_lists_total"),
}
"""Arrows of the picture whose rate is that of a worker's counter."""
TRAINER_LAG = "onerec_trainer_stream_lag_records"
LAGS = {
    "requests": "onerec_rollout_request_lag_records",
    "learner": "onerec_reward_learner_lag_records",
    "items": "onerec_tokenizer_stream_lag_records",
    "recommend": "onerec_recommend_stream_lag_records",
}


class Watch:
    """Of one thread. Holds what was seen, so that there are rates and courses from the second look on."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.settings = run, run.settings
        self._figures, self._scraper = FigureReader(run), Scraper()
        self._parts = PartsLook(run, self.settings)
        self._meters = {arrow: Meter(COUNTED_MS) for arrow in COUNTERS} | {"users": Meter(USERS_MS)}
        self._letters = LetterWatch(run)

    def look(self) -> LoopState:
        """The state now."""
        taken_ms = time.time_ns() // 1_000_000
        phase = read_phase(self.run)
        stage = stage_of(self.run, phase)
        running = stage in ("preparing", "streaming")
        scrape = self._scraper.scrape(metrics_endpoints(self.run, self.settings) if running else {})
        figures = self._figures.read()
        figures.actors |= {a: int(v) for a, v in scrape.by("onerec_rollout_parameter_version_number", "actor").items()}
        checkpoint = _checkpoint(self.run, taken_ms, figures.step)
        figures.version = _published(figures.version, scrape, checkpoint if stage in OVER else None)
        letters = self._letters.look(running, figures.rejected)
        lag = {"sessions": _whole(scrape.total(TRAINER_LAG, topic="sessions"))}
        lag |= {name: _whole(scrape.total(metric)) for name, metric in LAGS.items()}
        return LoopState(
            run=self.run.path.name,
            taken_ms=taken_ms,
            stage=stage,
            phase=phase.name if phase else "",
            phase_s=(taken_ms - phase.since_ms) / 1000 if phase and not phase.ended else None,
            reason=phase.reason if phase else "",
            parts=self._parts.look(scrape.answered, self._letters.failing, running),
            figures=figures,
            lag=lag,
            rates=self._rates(scrape, taken_ms) | (figures.rates if running else dict.fromkeys(figures.rates)),
            checkpoint=checkpoint,
            published_index=max(versions(self.run.index), default=None) if self.run.index.exists() else None,
            reward_model=_whole(scrape.total("onerec_reward_learner_version_number")),
            recommend_version=_whole(scrape.total("onerec_recommend_parameter_version_number")),
            letters=letters,
            staleness_bound=self.settings.sync.max_lag,
            sync_every=self.settings.sync.every,
        )

    def close(self) -> None:
        """Close the connections."""
        self._scraper.close()
        self._letters.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rates(self, scrape: Scrape, now_ms: int) -> dict[str, float | None]:
        for arrow, (worker, metric) in COUNTERS.items():
            # A counter with labels is not told before it has counted something.
            none_yet = 0.0 if worker in scrape.answered else None
            self._meters[arrow].add(now_ms, scrape.total(metric) or none_yet)
        consumed = scrape.total("onerec_trainer_sessions_consumed_total")
        waiting = scrape.total(TRAINER_LAG, topic="sessions")
        if consumed is not None and waiting is not None:
            self._meters["users"].add(now_ms, consumed + waiting)  # what the topic holds
        return {arrow: meter.per_second(now_ms) if scrape.answered else None for arrow, meter in self._meters.items()}


class LetterWatch:
    """The dead letters of a run: from their topic while it streams, from its folder afterwards."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._box: LetterBox | None = None
        self._newest: deque[Letter] = deque(maxlen=KEPT_LETTERS)
        self._count: int | None = None
        self._next_s = 0.0
        self.failing = False
        """Whether the broker did not answer when it was last asked."""

    def look(self, running: bool, rejected: int | None) -> Letters:
        """What is known of them; ``rejected`` by the trainer is the least there can be."""
        kept = read_json(self.run.path / "dead_letters.json")
        if kept:
            return Letters(count=kept["count"], newest=kept["letters"][-KEPT_LETTERS:])
        if running and time.monotonic() >= self._next_s:
            self._take()
            self._next_s = time.monotonic() + LETTERS_EVERY_S
        return Letters(count=rejected if self._count is None else self._count, newest=list(self._newest))

    def close(self) -> None:
        """Close the connection."""
        if self._box is not None:
            self._box.close()
            self._box = None

    def _take(self) -> None:
        endpoints = read_json(self.run.endpoints)
        if not endpoints:
            return
        try:
            if self._box is None:
                self._box = LetterBox(endpoints["kafka"], endpoints["prefix"], BROKER_S)
                self._newest.clear()  # it reads the topic from its beginning
            self._newest.extend(self._box.take())
            self._count = self._box.count
            self.failing = False
        except StreamError:
            self.failing = True
            self.close()


def stage_of(run: RunFolder, phase: Phase | None) -> Stage:
    """Where a run is; one that was not started by `onerec up` streams until somebody ends it."""
    if phase is None:
        return "finished" if (run.path / "timing.json").exists() else "streaming"
    if phase.ended:
        return phase.ended
    if not alive(phase.pid):
        return "killed"
    if phase.name == STREAMING:
        return "streaming"
    return "judging" if run.replay.exists() else "preparing"


def _checkpoint(run: RunFolder, now_ms: int, step: int | None) -> CheckpointState | None:
    markers = sorted(run.checkpoints.glob("[0-9]*/COMMITTED"))
    if not markers:
        return None
    try:
        age_s = now_ms / 1000 - markers[-1].stat().st_mtime
    except FileNotFoundError:  # replaced meanwhile
        return None
    made = int(markers[-1].parent.name)
    return CheckpointState(step=made, age_s=max(age_s, 0.0), steps_behind=None if step is None else max(step - made, 0))


def _published(told: int | None, scrape: Scrape, last: CheckpointState | None) -> int | None:
    """The newest published version; that of the ``last`` checkpoint of a run came out after the last step was told."""
    found = [told, _whole(scrape.total("onerec_trainer_parameter_version_number")), last.step if last else None]
    return max((version for version in found if version is not None), default=None)


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)
