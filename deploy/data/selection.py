"""Which records are a user's: each topic says it in its own way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from common.messages import RolloutGroup, RolloutRequest, Session, decode
from common.stream import Record, partition_of
from deploy.local.run_folder import RunFolder

Selects = Callable[[Record], bool]


def of_user(name: str, user: int, partitions: int, run_folder: Path | None) -> Selects:
    """Whether a record of the topic ``name`` (without prefix) is about a user.

    A group names the position of a session; whose it is, the run's history store knows.

    Raises:
        ValueError: the topic's records are nobody's, or a group's user cannot be found out.
    """
    home = partition_of(user, partitions)
    if name == "sessions":
        return lambda record: record.partition == home and _user_of(record, Session) == user
    if name == "rollout-requests":
        return lambda record: record.partition == home and _user_of(record, RolloutRequest) == user
    if name == "rollout-groups":
        if run_folder is None:
            raise ValueError("--user of rollout-groups needs --run-folder, whose history store knows the sessions' users")
        history = RunFolder.open(run_folder).history(home)
        return lambda record: _is_answer_to(record, user, home, history)
    raise ValueError(f"--user selects records of sessions, rollout-requests and rollout-groups, got {name}")


def _user_of(record: Record, model: type[Session] | type[RolloutRequest]) -> int | None:
    message = decode(model, record.value)
    if isinstance(message, str):
        return None
    return message.user_id if isinstance(message, Session) else message.context.user_id


def _is_answer_to(record: Record, user: int, home: int, history: Path) -> bool:
    """Whether a group answers a request that was made for one of the user's sessions."""
    group = decode(RolloutGroup, record.value)
    if isinstance(group, str) or group.partition != home:
        return False
    with closing(sqlite3.connect(f"{history.resolve().as_uri()}?mode=rw", uri=True)) as store:
        where = "SELECT 1 FROM events WHERE user_id = ? AND position = ?"
        return store.execute(where, (user, group.offset)).fetchone() is not None
