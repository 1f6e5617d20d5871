"""The arms of an online experiment beside each other, by the sessions that came back: the papers' online A/B tables.

A user counts once, with the mean of their sessions, since sessions of one user are alike. Intervals are percentiles of a
bootstrap over users, drawn in each arm by itself, as an arm's users are others than the first arm's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from rich.table import Table

from common.log_interval import beginnings
from common.messages import Label, Session, decode
from common.stream import LogReader, StreamError, topic_name

LABELS = {
    "clicks": Label.CLICK,
    "long views": Label.LONG_VIEW,
    "likes": Label.LIKE,
    "follows": Label.FOLLOW,
    "comments": Label.COMMENT,
    "forwards": Label.FORWARD,
    "dislikes": Label.DISLIKE,
}
MEASURES = ("play time, s", "videos", *LABELS)
SAMPLES = 2000
LEVEL = 95.0
FEWEST = 20
"""Users of an arm from which on there are intervals. Of two equal arms of two users each a third would look certain, of ten
each a tenth, of one each all: resamples of few users differ too little."""
Floats = npt.NDArray[np.float64]


class Lift(BaseModel):
    """An arm's mean over the first one's, minus 1, in percent, with its interval."""

    percent: float
    low: float | None
    """None, like ``high``, where one of the two arms has fewer than `FEWEST` users."""
    high: float | None

    @property
    def certain(self) -> bool:
        """Whether there is an interval, and it leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class ArmFigures(BaseModel):
    """One arm. Measures are of a session: the mean over users of the mean over their sessions."""

    arm: str
    users: int
    sessions: int
    means: dict[str, float]
    lifts: dict[str, Lift]
    """Over the first arm, which has none; without what the first arm has none of."""


def compare(sessions: Iterable[Session], order: Sequence[str], seed: int = 0) -> list[ArmFigures]:
    """All arms with sessions, in this order, whose first is what the others are compared with; then those it does not name.

    Raises:
        ValueError: no session came back with the first arm.
    """
    users: dict[str, dict[int, list[Floats]]] = {}
    for session in sessions:
        if session.arm:
            users.setdefault(session.arm, {}).setdefault(session.user_id, []).append(measures(session))
    if order[0] not in users:
        raise ValueError(f"no session came back with the arm {order[0]!r}; arms with sessions: {', '.join(users) or 'none'}")
    rng = np.random.default_rng(seed)
    first = np.stack([np.mean(own, 0) for own in users[order[0]].values()])
    drawn = resampled_means(first, rng)
    figures = []
    for arm in (name for name in dict.fromkeys((*order, *sorted(users))) if name in users):
        own = np.stack([np.mean(sessions_, 0) for sessions_ in users[arm].values()])
        told = lifts(first, drawn, own, resampled_means(own, rng)) if arm != order[0] else {}
        means = dict(zip(MEASURES, own.mean(0).tolist(), strict=True))
        count = sum(map(len, users[arm].values()))
        figures.append(ArmFigures(arm=arm, users=len(own), sessions=count, means=means, lifts=told))
    return figures


def measures(session: Session) -> Floats:
    """One session's `MEASURES`."""
    labels = np.array([impression.labels for impression in session.impressions])
    counts = [int(((labels & int(label)) > 0).sum()) for label in LABELS.values()]
    return np.array([session.play_ms / 1000, len(labels), *counts], np.float64)


def resampled_means(values: Floats, rng: np.random.Generator) -> Floats:
    """Means (samples, M) of users (U, M) drawn with replacement."""
    users = len(values)
    return np.stack([values[rng.integers(0, users, users)].mean(0) for _ in range(SAMPLES)])


def lifts(first: Floats, first_drawn: Floats, own: Floats, own_drawn: Floats) -> dict[str, Lift]:
    """Each measure's lift; (U, M) per user and (samples, M) resampled."""
    found = {}
    tail, enough = (100 - LEVEL) / 2, min(len(first), len(own)) >= FEWEST
    for k, name in enumerate(MEASURES):
        base = first_drawn[:, k]
        if not base.min() > 0:
            continue
        ratios = 100 * (own_drawn[:, k] / base - 1)
        low, high = np.percentile(ratios, (tail, 100 - tail)).tolist() if enough else (None, None)
        found[name] = Lift(percent=float(100 * (own[:, k].mean() / first[:, k].mean() - 1)), low=low, high=high)
    return found


def read_sessions(kafka: str, prefix: str, timeout_s: float) -> list[Session]:
    """All valid sessions of a run that its topic still has, each once.

    Raises:
        StreamError: the broker does not answer.
    """
    found: dict[tuple[int, str], Session] = {}
    topic = topic_name(prefix, "sessions")
    reader = LogReader(kafka, topic, beginnings(kafka, topic, timeout_s), timeout_s)
    try:
        deadline = time.monotonic() + timeout_s
        while any(reader.lag().values()):
            if time.monotonic() > deadline:
                raise StreamError(f"Kafka at {kafka} gave no more sessions of {prefix} for {timeout_s:g} s, but has some")
            for record in reader.poll(500, 0.2):
                deadline = time.monotonic() + timeout_s
                session = decode(Session, record.value)
                if isinstance(session, Session):
                    found.setdefault((session.user_id, session.session_id), session)
    finally:
        reader.close()
    return list(found.values())


def arms_table(figures: list[ArmFigures]) -> Table:
    """A row for each measure: the first arm's mean, then the other arms' lifts; certain ones are bold."""
    first, *others = figures
    table = Table(title=f"Arms · a session's mean · {LEVEL:g} % intervals over users", title_justify="left")
    table.add_column("")
    table.add_column(first.arm, justify="right")
    for arm in others:
        table.add_column(f"{arm.arm} over {first.arm}", justify="right", no_wrap=True)
    table.add_row("users / sessions", *(f"{arm.users:,} / {arm.sessions:,}" for arm in figures))
    for name in MEASURES:
        table.add_row(name, f"{first.means[name]:,.3f}", *(_shown(arm.lifts.get(name)) for arm in others))
    return table


def _shown(lift: Lift | None) -> str:
    if lift is None:
        return "—"
    text = f"{lift.percent:+.1f} %"
    if lift.low is not None:
        text += f" ({lift.low:+.1f} to {lift.high:+.1f})"
    return f"[bold]{text}[/bold]" if lift.certain else text
