"""From a log on disk to log-probs: what happens from a sample's time on changes nothing that the policy sees of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.features import Featurizer
from common.history import HistoryStore
from common.item_index import ItemIndex
from common.messages import Events, Impression, Item, Label, Session, User
from common.policy import build_policy
from common.session_log import DAY_MS, LogWriter, SessionLog
from common.sessions import load_initial_histories
from common.settings import PolicySettings, Settings, load_settings
from common.stream import Record
from common.user_log import load_user_logs
from tests.factories import ARCHITECTURES, make_index
from trainer.batches import BatchBuilder
from trainer.duration_reward import PlayTimes
from trainer.pretraining import history_samples, session_samples
from trainer.session_filter import SessionFilter
from trainer.step import SftSample

DAY0, USERS = 20_000 * DAY_MS, 4
HISTORY_DAYS, WARM_DAYS, STREAM_DAYS = 3, 2, 2
SETTINGS = load_settings(overrides=["pretrain.targets_per_context=4", "stream.partitions=1", "rl.rate=1.0"])
PARTS = ("history", "warm", "stream", "request")
Key = tuple[str, int, int]
"""Of a sample: its part, user and time."""


@dataclass(frozen=True)
class World:
    """A log's contents, of which everything from ``cut`` on (ms) is drawn by ``seed``, and the rest always the same."""

    cut: int
    seed: int

    def events(self, times: range, stream: int) -> list[Impression]:
        """One impression for each time."""
        past, future = np.random.default_rng(stream), np.random.default_rng([stream, self.seed])
        return [self._impression(t, past if t < self.cut else future) for t in times]

    def sessions(self) -> list[Session]:
        """Two a day for each user; from the cut on some are missing."""
        drawn = np.random.default_rng(self.seed)
        found = []
        for half in range(2 * (WARM_DAYS + STREAM_DAYS)):
            for user in range(USERS):
                begin = DAY0 + half * DAY_MS // 2 + user * 1000
                shown = self.events(range(begin, begin + 300, 100), 100 * half + user)
                if begin < self.cut or drawn.random() < 0.7:
                    found.append(Session(session_id=f"{half}", user_id=user, time_ms=begin, impressions=shown))
        return found

    def users(self) -> list[User]:
        """Their initial histories end an hour before the first session."""
        times = range(DAY0 - HISTORY_DAYS * DAY_MS, DAY0 - DAY_MS // 24, DAY_MS // 8)
        return [User(user_id=u, profile={"age": u}, history=_columns(self.events(times, 10_000 + u))) for u in range(USERS)]

    def write(self, folder: Path) -> SessionLog:
        """The log on disk."""
        items = [Item(item_id=i) for i in range(100, 160)]
        LogWriter(folder, "world", Label.CLICK, ["age"]).write(items, self.users(), self.sessions())
        return SessionLog.open(folder)

    @staticmethod
    def _impression(time_ms: int, rng: np.random.Generator) -> Impression:
        item, play, labels = int(rng.integers(100, 160)), int(rng.integers(1, 60_000)), int(rng.integers(512))
        return Impression(item_id=item, time_ms=time_ms, play_ms=play, duration_ms=30_000, labels=labels, tab=1)


def _columns(shown: list[Impression]) -> Events:
    names = ("item_id", "time_ms", "play_ms", "duration_ms", "labels")
    return Events(**{name: [getattr(one, name) for one in shown] for name in names})


def samples(world: World, folder: Path, settings: Settings, index: ItemIndex) -> dict[Key, SftSample]:
    """All that a run would train on: initial histories, the warm window, and the stream through the history store."""
    log = world.write(folder / "log")
    users = load_user_logs(log, WARM_DAYS)
    streamed = list(log.sessions(WARM_DAYS))
    records = [Record("p.sessions", 0, n, 0, None, one.to_bytes(), []) for n, one in enumerate(streamed)]
    with HistoryStore(folder / "history.sqlite") as history:
        load_initial_histories(log, history, WARM_DAYS)
        builder = BatchBuilder(settings, index, history, SessionFilter(settings.filter), PlayTimes(100))
        batch = builder.build(records, {0: (0, len(records))})
    requests = [SftSample(draft.context, np.zeros((1, 3), np.int64)) for draft in batch.requests]
    pretraining = history_samples(users, index, settings, np.random.default_rng(0)), session_samples(users, index, settings)
    parts = zip(PARTS, (*pretraining, batch.samples, requests), strict=True)
    return {(part, one.context.user_id, one.context.time_ms): one for part, found in parts for one in found}


CUTS = {
    "in the initial histories": DAY0 - DAY_MS,
    "in the warm window": DAY0 + DAY_MS + 500,
    "in the stream": DAY0 + (WARM_DAYS + 1) * DAY_MS + 500,
}


Pair = tuple[dict[Key, SftSample], dict[Key, SftSample]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """For every cut, the samples of two worlds that differ from there on."""

    def made(cut: int, seed: int) -> dict[Key, SftSample]:
        return samples(World(cut, seed), tmp_path_factory.mktemp("world"), SETTINGS, make_index())

    return {name: (made(cut, 1), made(cut, 2)) for name, cut in CUTS.items()}


def log_probs(settings: PolicySettings, found: list[SftSample]) -> Tensor:
    """Of the same two targets in every sample's context (R, 2, K)."""
    policy, featurize = build_policy(settings).eval(), Featurizer(settings, make_index())
    with torch.no_grad():
        memory = policy.encode(featurize([one.context for one in found]))
        return policy.session_log_probs(memory, torch.arange(6).view(1, 2, 3).expand(len(found), -1, -1))


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_another_future_changes_no_log_prob(settings: PolicySettings, where: str, worlds: dict[str, Pair]) -> None:
    (one, two), cut = worlds[where], CUTS[where]
    past = [key for key in one if key[2] < cut]
    assert past == [key for key in two if key[2] < cut]
    assert {part for part, *_ in past} == set(PARTS if where == "in the stream" else PARTS[: 1 + list(CUTS).index(where)])
    assert torch.equal(*(log_probs(settings, [world[key] for key in past]) for world in (one, two)))
    later = [key for key in one if key[2] > cut + DAY_MS // 2 and key in two]
    first, second = (log_probs(settings, [world[key] for key in later]) for world in (one, two))
    assert (first != second).flatten(1).any(1).all()
