"""Simulated users who ask a run's recommend endpoint, watch what they get, and whose sessions come back on the stream.

They answer as the users of the log do: by their interests on a day, tired of the topics they have just seen.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import numpy as np

from common.access import access
from common.context import Context, UserEvents
from common.messages import Impression, RecommendRequest, RecommendResponse, Session
from common.session_log import DAY_MS, SessionLog
from common.stream import Producer, partition_of, topic_name
from common.user_log import load_user_logs
from deploy.data.simulator_cascade import RECENT
from deploy.data.simulator_world import World
from deploy.experiments.own_traffic import answer
from deploy.local.run_folder import RunFolder, read_json

Say = Callable[[str], None]
AT_ONCE = 4
"""Users who wait for a list at the same time."""
TIMEOUT_S = 30.0
PAUSE_MS = 3_600_000
"""Between two requests of a user, in the log's time."""


class Traffic:
    """Users of a simulated log on the first day after it was streamed."""

    def __init__(self, log: SessionLog, day: int, seed: int) -> None:
        """Raises ValueError if the log was not simulated."""
        self.world = World.load(log.path)
        self.day, self.seed = min(day, len(self.world.theta) - 1), seed
        self.start_ms = log.manifest.day0_ms + self.day * DAY_MS
        self.seen = {user.user_id: user.events.last(RECENT) for user in load_user_logs(log, self.day)}

    def users(self, count: int) -> list[int]:
        """A sample of them."""
        return [int(user) for user in np.random.default_rng(self.seed).permutation(sorted(self.seen))[:count]]

    def session(self, user: int, number: int, ask: Callable[[RecommendRequest], RecommendResponse], name: str) -> Session:
        """The user's next session: asks for a list and watches it. To be called in order for each user."""
        time_ms = self.start_ms + number * PAUSE_MS
        told = ask(RecommendRequest(user_id=user, time_ms=time_ms))
        items = np.array([one.item_id for one in told.items], np.int64)
        rng = np.random.default_rng((self.seed, user, number))
        shown = answer(self.world, Context(user, time_ms, events=self.seen[user]), items, self.day, rng)
        self.seen[user] = UserEvents.concatenate([self.seen[user], shown]).last(RECENT)
        columns = (shown.item_id, shown.time_ms, shown.play_ms, shown.duration_ms, shown.labels)
        names = ("item_id", "time_ms", "play_ms", "duration_ms", "labels")
        rows = [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]
        impressions = [Impression(**row, generated=one.generated) for row, one in zip(rows, told.items, strict=True)]
        return Session(
            session_id=f"{name}-{user}-{number}", user_id=user, time_ms=time_ms, impressions=impressions, arm=told.arm
        )


def send_traffic(run: RunFolder, users: int, sessions: int, on_progress: Say) -> int:
    """Let this many simulated users have this many sessions each, and put them on the run's topic; how many there were.

    Raises:
        ValueError: the run was not simulated, or its endpoint does not run, or answers with no list.
        StreamError: the broker did not take the sessions.
    """
    settings, endpoints = run.settings, read_json(run.endpoints)
    split = settings.split
    ready = read_json(run.ready_file("recommend"))
    if not ready or not endpoints:
        raise ValueError(f"{run.path} has no recommend endpoint that runs: start it with --set recommend.on=true")
    traffic = Traffic(SessionLog.open(run.log), split.warm_days + split.stream_days, settings.seed)
    topic, name = topic_name(endpoints["prefix"], "sessions"), f"arms-{secrets.token_hex(4)}"
    chosen = traffic.users(users)
    with (
        closing(Producer(endpoints["kafka"], settings.stream.timeout_s)) as producer,
        httpx.Client(base_url=ready["url"], timeout=TIMEOUT_S, headers=access().caller_headers()) as client,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):
        json = {"content-type": "application/json"}

        def ask(request: RecommendRequest) -> RecommendResponse:
            try:
                reply = client.post("/v1/recommend", content=request.to_bytes(), headers=json)
            except httpx.HTTPError as error:
                told = str(error) or type(error).__name__
                raise ValueError(f"the recommend endpoint at {ready['url']} did not answer: {told}") from None
            if reply.status_code != 200:
                raise ValueError(f"{ready['url']} answered {reply.status_code}: {reply.text[:200]}")
            return RecommendResponse.model_validate_json(reply.content)

        for number in range(sessions):
            for session in threads.map(lambda user, k=number: traffic.session(user, k, ask, name), chosen):
                producer.send(topic, session.to_bytes(), partition_of(session.user_id, settings.stream.partitions))
            producer.flush()
            on_progress(f"{(number + 1) * len(chosen):,} sessions of {len(chosen):,} users came back")
    return sessions * len(chosen)
