"""A small catalogue and log with a planted taste: a user clicks the items whose tag has the parity of the user's id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.item_index import ItemIndex
from common.messages import Events, Impression, Item, Label, Session, User
from common.session_log import DAY_MS, LogWriter, SessionLog
from common.settings import Settings, load_settings

ITEMS, USERS, DAYS = 40, 24, 3
DAY0_MS = 20_000 * DAY_MS
CODES = 8


def tiny_settings(**overrides: object) -> Settings:
    """Settings small enough for a test; ``overrides`` are reward settings."""
    reward = {"width": 8, "history": 6, "batch": 64, "learning_rate": 5e-3, "epochs": 8} | overrides
    return load_settings("", ['policy.static_fields=["sex"]', *(f"reward.{k}={v}" for k, v in reward.items())])


def tag_of(item_id: int) -> int:
    """The only tag of an item."""
    return item_id % 4


def make_index(version: int = 1, tokenizer: str = "t1") -> ItemIndex:
    """Items 100..139; the level-1 code is the tag."""
    ids = np.arange(100, 100 + ITEMS)
    tags = np.array([[tag_of(i), -1] for i in ids.tolist()])
    sids = np.stack([tags[:, 0], ids % CODES, ids // 2 % CODES], axis=1)
    zeros = np.zeros(ITEMS)
    return ItemIndex.build(
        version,
        tokenizer,
        CODES,
        item_ids=ids,
        sids=sids,
        author=ids % 5,
        tags=tags,
        music=zeros,
        duration_ms=np.full(ITEMS, 20_000),
        publish_ms=zeros,
        popularity=zeros,
        vectors=np.zeros((ITEMS, 2)),
    )


def make_sessions(seed: int = 0) -> list[Session]:
    """Per user and day two sessions of four impressions, in time order."""
    rng = np.random.default_rng(seed)
    sessions = []
    for step in range(DAYS * 2):
        for user in range(USERS):
            begin = DAY0_MS + step * DAY_MS // 2 + user * 1000
            shown = rng.choice(np.arange(100, 100 + ITEMS), 4, replace=False).tolist()
            impressions = [impression(user, item, begin + k, rng) for k, item in enumerate(shown)]
            sessions.append(Session(session_id=f"{user}-{step}", user_id=user, time_ms=begin, impressions=impressions))
    return sessions


def impression(user: int, item: int, time_ms: int, rng: np.random.Generator) -> Impression:
    """One impression by the planted taste, with one label in ten flipped."""
    liked = (tag_of(item) % 2 == user % 2) != (rng.random() < 0.1)
    labels = int(Label.CLICK | (Label.LIKE if rng.random() < 0.3 else 0)) if liked else 0
    return Impression(
        item_id=item, time_ms=time_ms, play_ms=20_000 if liked else 1_000, duration_ms=20_000, labels=labels, tab=user % 3
    )


def write_log(path: Path, sessions: list[Session]) -> SessionLog:
    """A log folder of these sessions; every user has watched items 100 and 101 before, at unknown times."""
    past = Events(item_id=[100, 101], time_ms=[0, 0], play_ms=[0, 0], duration_ms=[0, 0], labels=[1, 0])
    users = [User(user_id=u, profile={"sex": u % 2}, history=past) for u in range(USERS)]
    items = [Item(item_id=i, tags=[tag_of(i)], duration_ms=20_000) for i in range(100, 100 + ITEMS)]
    LogWriter(path, "tiny", int(Label.CLICK), ["sex"]).write(items, users, sessions)
    return SessionLog.open(path)
