"""Which page holds which generated block, and what is in it."""

from __future__ import annotations

from collections.abc import Callable

from common import messages
from common.messages import Message
from common.session_log import LogManifest
from common.settings import Settings
from deploy.reference.metrics import metrics_block
from deploy.reference.schema import Table, tables

TOPICS: dict[str, type[Message]] = {
    "sessions": messages.Session,
    "items": messages.ItemEvent,
    "rollout-requests": messages.RolloutRequest,
    "rollout-groups": messages.RolloutGroup,
    "dead-letters": messages.DeadLetter,
}
REQUESTS: dict[str, type[Message]] = {
    "POST /v1/score, request": messages.ScoreRequest,
    "POST /v1/score, response": messages.ScoreResponse,
    "POST /v1/recommend, request": messages.RecommendRequest,
    "POST /v1/recommend, response": messages.RecommendResponse,
}
LOG_FILES: dict[str, type[Message]] = {
    "log.json": LogManifest,
    "users.jsonl.gz, a line": messages.User,
}
"""What lies in a session log and on no topic."""


def settings_block() -> str:
    """Every setting, a table a section."""
    return "\n\n".join(_section(table.place or "the tree", table, "key") for table in tables(Settings))


def messages_block() -> str:
    """Every message by its topic, route or file, and then what messages are made of, once each."""
    told: list[str] = []
    parts: dict[str, Table] = {}
    for place, model in (TOPICS | REQUESTS | LOG_FILES).items():
        whole, *inner = (table.without("schema_version") for table in tables(model))
        told.append(_section(place, whole, "field"))
        parts |= {table.name: table for table in inner}
    return "\n\n".join(told + [_section("within", table, "field") for table in parts.values()])


def _section(place: str, table: Table, first_column: str) -> str:
    return f"### {place}: {table.name}\n\n{table.markdown(first_column)}"


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "configuration.md": ("settings", settings_block),
    "contracts.md": ("messages", messages_block),
    "metrics.md": ("metrics", metrics_block),
}
"""Page under ``docs/``: the name of its block, and who makes it."""


def with_block(page: str, name: str, block: str) -> str:
    """A page whose block between ``<!-- begin NAME … -->`` and ``<!-- end NAME -->`` is replaced.

    Raises:
        ValueError: the page does not have the two marks, each once.
    """
    begin, end = f"<!-- begin {name} (python -m deploy.reference) -->\n", f"\n<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must hold {begin.strip()!r} and {end.strip()!r} once each")
    head, _, rest = page.partition(begin)
    return head + begin + block + end + rest.partition(end)[2]
