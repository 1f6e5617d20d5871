"""A run folder with a tiny policy and index, and requests for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.context import Context, UserEvents
from common.item_index import ItemIndex
from common.messages import RolloutRequest
from common.settings import Settings, load_settings, save_settings
from rollout.run_folder import write_json

LEVELS, CODES, ITEMS, GROUP = 3, 4, 40, 16
TINY = [
    "policy.d_model=16",
    "policy.heads=2",
    "policy.ffn=32",
    f"policy.codes={CODES}",
    "policy.user_buckets=64",
    "policy.item_buckets=64",
    "policy.author_buckets=64",
    "policy.tag_buckets=64",
    f"rl.group_size={GROUP}",
]


def tiny_index(version: int = 1, items: int = ITEMS) -> ItemIndex:
    """Items 0..items-1 with distinct SIDs; codes not taken are illegal."""
    rng = np.random.default_rng(version)
    keys = rng.permutation(CODES**LEVELS)[:items]
    zeros = np.zeros(items, np.int64)
    return ItemIndex.build(
        version=version,
        tokenizer_version="t1",
        codes=CODES,
        item_ids=np.arange(items),
        sids=np.stack([keys // CODES**2, keys // CODES % CODES, keys % CODES], 1),
        author=zeros,
        tags=zeros[:, None] - 1,
        music=zeros,
        duration_ms=zeros + 1000,
        publish_ms=zeros,
        popularity=zeros,
        vectors=rng.normal(size=(items, 8)),
    )


def write_run(folder: Path, endpoints: dict[str, str], more: list[str]) -> Settings:
    """settings.json, endpoints.json and index/000001 in a folder."""
    settings = load_settings(overrides=TINY + more)
    folder.mkdir(parents=True, exist_ok=True)
    save_settings(settings, folder / "settings.json")
    write_json(folder / "endpoints.json", endpoints)
    tiny_index().save(folder / "index" / "000001")
    return settings


def tiny_request(user_id: int, run: str = "r", index_version: int = 1, tokenizer_version: str = "t1") -> RolloutRequest:
    """A request of a user with three past events."""
    events = UserEvents(
        *(np.array(column) for column in ([1, 2, user_id % ITEMS], [5, 6, 7], [1, 1, 1], [9, 9, 9], [0, 1, 2]))
    )
    context = Context(user_id, 86_400_000, events=events)
    return RolloutRequest(
        request_id=f"{run}/sessions/0/{user_id}",
        run=run,
        topic="t.sessions",
        partition=0,
        offset=user_id,
        context=context.to_message(),
        digest=context.digest(),
        tokenizer_version=tokenizer_version,
        index_version=index_version,
        requested_ms=1,
    )
