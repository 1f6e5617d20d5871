"""What the two newest parameter versions of a run recommend to one user, side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from common.compute import compute_with
from common.context import Context
from common.item_index import ItemIndex, latest_index
from common.messages import Item
from common.policy import Policy
from common.session_log import SessionLog
from common.stream import partition_of
from deploy.local.run_folder import RunFolder
from deploy.local.versions import kept_versions, read_policy
from rollout.engine import GenerationEngine
from rollout.recommend.sessions import Histories

BEAM = 64
SHOWN = 10
WATCHED = 5


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of a list."""

    item_id: int
    title: str
    about: str
    """Its category and length, as far as they are known."""
    log_prob: float = 0.0
    """Of its semantic ID."""
    moved: int | None = 0
    """Places up from the list of the version before; None: it was not there."""


@dataclass(frozen=True, slots=True)
class Recommended:
    """The list of one version."""

    version: int
    items: list[Shown]


@dataclass(frozen=True, slots=True)
class Sample:
    """One user: the last items that they were shown, and one or two lists, that of the newest version last."""

    user_id: int
    events: int
    watched: list[Shown]
    lists: list[Recommended] = field(default_factory=list)
    index_version: int = 0


class Sampler:
    """Generates as rollout does, by a beam search that is constrained to items, on one thread. Safe to call from several."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.settings = run, run.settings
        self._policies: dict[int, Policy] = {}
        self._catalogue: dict[int, Item] = {}
        self._lock = threading.Lock()

    def sample(self, user_id: int) -> Sample:
        """Lists of what the user has not been shown, by what is known of them now.

        Raises:
            ValueError: the run knows no such user, or holds no history, parameters or item index (yet).
        """
        with self._lock:
            compute_with(threads=1)
            context = self._context(user_id)
            index = ItemIndex.load(latest_index(self.run.index))
            lists = [Recommended(v, self._list(p, index, context)) for v, p in self._newest()]
            watched = [self._shown(int(item)) for item in context.events.item_id[::-1][:WATCHED]]
            return Sample(user_id, len(context.events), watched, list(compared(lists)), index.version)

    def _context(self, user_id: int) -> Context:
        partition = partition_of(user_id, self.settings.stream.partitions)
        with closing(Histories(self.run.history(partition), self.settings)) as histories:
            context = histories.context(user_id, 0, 0)
        if not len(context.events) and not context.profile:
            raise ValueError(f"user {user_id} is not known to this run")
        time_ms = int(context.events.time_ms.max(initial=0))
        return Context(user_id, time_ms, 0, context.profile, context.events)

    def _newest(self) -> list[tuple[int, Policy]]:
        """The newest version and the one before, oldest first. Loaded once each."""
        kept = kept_versions(self.run)[-2:]
        if not kept:
            raise ValueError("the run holds no parameters yet: ask again once the policy is pre-trained")
        self._policies = {v: self._policies.get(v) or read_policy(self.run, v, self.settings).float() for v in kept}
        return list(self._policies.items())

    def _list(self, policy: Policy, index: ItemIndex, context: Context) -> list[Shown]:
        (made,) = GenerationEngine(policy, index, BEAM, constrained=True).generate([context])
        items, row = index.items_of(made.codes)
        new = np.flatnonzero(~np.isin(items, context.events.item_id))[:SHOWN]
        return [self._shown(int(items[k]), float(made.log_probs[row[k]].sum())) for k in new]

    def _shown(self, item_id: int, log_prob: float = 0.0) -> Shown:
        if not self._catalogue:
            self._catalogue = {item.item_id: item for item in SessionLog.open(self.run.log).items()}
        item = self._catalogue.get(item_id)
        if item is None:
            return Shown(item_id, f"item {item_id}", "not in the log", log_prob)
        return Shown(item_id, item.title or f"item {item_id}", ", ".join(about(item)), log_prob)


def about(item: Item) -> Iterator[str]:
    """Category, author and length, as far as they are known."""
    if item.category:
        yield item.category.rpartition(" > ")[2]
    elif item.tags:
        yield f"category {item.tags[-1]}"
    if item.author_id:
        yield f"author {item.author_id}"
    if item.duration_ms:
        yield f"{item.duration_ms / 1000:.0f}\N{NO-BREAK SPACE}s"


def compared(lists: list[Recommended]) -> Iterator[Recommended]:
    """The lists of one or two versions, the last one's items with how they moved."""
    yield from lists[:-1]
    before = {shown.item_id: place for place, shown in enumerate(lists[0].items)}
    last = lists[-1]
    moved = [
        Shown(
            one.item_id, one.title, one.about, one.log_prob, before[one.item_id] - place if one.item_id in before else None
        )
        for place, one in enumerate(last.items)
    ]
    yield Recommended(last.version, moved)
