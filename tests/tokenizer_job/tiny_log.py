"""A small session log and settings that go with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.content import Content
from common.context import DAY_MS
from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import LogWriter, SessionLog
from common.settings import Settings, load_settings

ITEMS, USERS, DAYS = 120, 30, 3
FIRST_ID = 1000
UNKNOWN_ID = 7
WIDTH = 12
Sessions = list[Session]


def make_items(published: int = ITEMS) -> list[Item]:
    """Item k has id `FIRST_ID` + 2k; those from ``published`` on appear on day 2."""
    return [
        Item(
            item_id=FIRST_ID + 2 * i,
            author_id=1 + i % 20,
            tags=[i % 7, 50 + i % 3][: 1 + i % 2],
            duration_ms=1000 * i,
            publish_ms=0 if i < published else 2 * DAY_MS + i,
            title=f"item {i % 11}",
            category=f"kind {i % 5}",
        )
        for i in reversed(range(ITEMS))
    ]


def make_content(items: list[Item], seed: int = 4) -> Content:
    """Two tokens per item: its category's direction with noise, and noise."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(5, WIDTH))
    rows = [int(item.category.split()[-1]) for item in items]
    tokens = np.stack([centre[rows] + 0.3 * rng.normal(size=(len(items), WIDTH)), rng.normal(size=(len(items), WIDTH))], 1)
    return Content.of(tokens, np.stack([np.ones(len(items), np.bool_), np.arange(len(items)) % 3 == 0], 1))


def make_users() -> list[User]:
    rng = np.random.default_rng(1)
    drawn = (FIRST_ID + 2 * rng.integers(0, ITEMS - 10, (USERS, 20))).tolist()
    zeros = [0] * 20
    return [
        User(user_id=u, history=Events(item_id=ids, time_ms=zeros, play_ms=zeros, duration_ms=zeros, labels=[1] * 20))
        for u, ids in enumerate(drawn)
    ]


def make_sessions(seed: int = 2) -> Sessions:
    rng = np.random.default_rng(seed)
    sessions = []
    for day in range(DAYS):
        for user in range(USERS):
            time_ms = day * DAY_MS + 1000 * user
            items = [UNKNOWN_ID, *(FIRST_ID + 2 * rng.integers(0, ITEMS - 10, 5)).tolist()]
            shown = [Impression(item_id=i, time_ms=time_ms, labels=int(rng.integers(0, 2))) for i in items]
            sessions.append(Session(session_id=f"{day}-{user}", user_id=user, time_ms=time_ms, impressions=shown))
    return sessions


def write_log(path: Path, sessions: Sessions, published: int = ITEMS, content: bool = False) -> SessionLog:
    """The log on disk."""
    items = make_items(published)
    given = make_content(items) if content else None
    LogWriter(path, "test", int(Label.CLICK), []).write(items, make_users(), sessions, given)
    return SessionLog.open(path)


def small(*more: str) -> Settings:
    """Settings of a size that fits."""
    widths = ["tokenizer.collaborative_width=16", "tokenizer.content_width=8", "tokenizer.alignment.width=16"]
    fit = ["tokenizer.alignment.steps=4", "tokenizer.alignment.batch=16", "tokenizer.alignment.heads=2"]
    return load_settings(overrides=["policy.codes=16", *widths, *fit, *more])
