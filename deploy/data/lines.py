"""One line a message, as a person reads it at 100 columns."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from common.messages import DeadLetter, ItemEvent, Label, Message, RolloutGroup, RolloutRequest, Session
from common.stream import Record
from deploy.data.place import short_name

WIDTH = 100


def record_line(record: Record, message: Message | str) -> str:
    """Time (UTC), position, and what the message says; the reason where it is not valid."""
    says = f"not valid: {message}" if isinstance(message, str) else SAYS[type(message)](message)
    return fitted(f"{clock(record.timestamp_ms)}  {record.partition}/{record.offset}  {says}")


def statistics_line(line: dict[str, Any]) -> str:
    """One line of the trainer's statistics: a step, or a settled group."""
    if line["kind"] == "group":
        return fitted(f"step {line['step']:,}  group {_position(line['request'])}  {_group_figures(line)}")
    counters, targets = line["counters"], line["targets"]
    loss = f"loss {sum(line['loss_per_level']):.3f}" if targets else "no targets"
    parts = (
        f"{clock(line['time_ms'])}  step {line['step']:,}",
        f"{1000 * line['seconds']:.0f} ms",
        loss,
        f"{counters.get('sessions.consumed', 0):,} sessions",
        f"{counters.get('groups.trained', 0):,} groups",
        f"version {line['version']}",
    )
    return fitted("  ".join(parts))


def clock(time_ms: int) -> str:
    """A time in UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def fitted(line: str) -> str:
    """A line cut to `WIDTH`, with no line breaks or other control characters that a message may hold."""
    plain = "".join(letter if letter.isprintable() else "·" for letter in line)
    return plain if len(plain) <= WIDTH else plain[: WIDTH - 1] + "…"


def _session(session: Session) -> str:
    impressions = session.impressions
    labels = Counter(label.name for one in impressions for label in Label if one.labels & label)
    told = "".join(f", {count} {(name or '').lower()}" for name, count in labels.most_common())
    items = " ".join(str(one.item_id) for one in impressions)
    return f"user {session.user_id}  {len(impressions)} shown, {session.play_ms / 1000:.1f} s played{told}  items {items}"


def _request(request: RolloutRequest) -> str:
    context = request.context
    where = f"{request.partition}/{request.offset}"
    return (
        f"user {context.user_id}  for session {where}  {len(context.events.item_id)} events  index {request.index_version}"
    )


def _group(group: RolloutGroup) -> str:
    head = f"session {group.partition}/{group.offset}  version {group.parameter_version}"
    if group.failure:
        return f"{head}  FAILED: {group.failure}"
    rewards = [reward for reward in group.rewards if reward is not None]
    mean = f", reward {sum(rewards) / len(rewards):.4f}" if rewards else ""
    return f"{head}  {len(group.codes)} candidates, {len(rewards)} legal{mean}"


def _item(event: ItemEvent) -> str:
    item = event.item
    what = "removed" if event.removed else f"new, {len(event.content)} content vectors"
    return f"item {item.item_id}  {what}  {item.title or item.category}".rstrip()


def _letter(letter: DeadLetter) -> str:
    return f"{short_name(letter.topic)} {letter.partition}/{letter.offset}  {letter.reason}  ({letter.length:,} bytes)"


SAYS: dict[type[Message], Any] = {
    Session: _session,
    RolloutRequest: _request,
    RolloutGroup: _group,
    ItemEvent: _item,
    DeadLetter: _letter,
}


def _group_figures(line: dict[str, Any]) -> str:
    if line.get("version") is None:
        return str(line["outcome"])
    legal, reward = line["legal_share"], line["mean_reward"]
    figures = [
        "" if legal is None else f"  {100 * legal:.0f} % legal",
        "" if reward is None else f"  mean reward {reward:.4f}",
    ]
    return f"{line['outcome']}  version {line['version']}{''.join(figures)}"


def _position(request: list[int] | None) -> str:
    return "of nobody" if request is None else f"for session {request[0]}/{request[1]}"
