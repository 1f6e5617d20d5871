"""Which rollout requests are under way and which are settled, so that every request's group counts once.

A request is named by the position of the session it was made for. It is settled when its first group was trained or
dropped (or when it was given up); any later group for it is a duplicate. Positions below ``low`` are all settled, so that
only the settled ones above it are held.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.history import Position

Standing = Literal["outstanding", "settled", "unknown"]


class Asked(BaseModel):
    """Whom and when a request was about: with the position, all it takes to rebuild its context."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: int
    time_ms: int
    tab: int


class FrontierState(BaseModel):
    """A frontier's form in a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: dict[int, int] = {}
    outstanding: list[tuple[int, int, Asked]] = []
    settled: list[Position] = []


@dataclass(slots=True)
class Frontier:
    """Outstanding and settled requests of one run."""

    low: dict[int, int] = field(default_factory=dict)
    outstanding: dict[Position, Asked] = field(default_factory=dict)
    settled: set[Position] = field(default_factory=set)

    def request(self, position: Position, asked: Asked) -> None:
        """A request was made. Making it again changes nothing."""
        if self.standing(position) == "unknown":
            self.outstanding[position] = asked

    def standing(self, position: Position) -> Standing:
        """Whether a position's request is under way, settled, or was never made."""
        if position in self.outstanding:
            return "outstanding"
        partition, offset = position
        return "settled" if position in self.settled or offset < self.low.get(partition, 0) else "unknown"

    def settle(self, position: Position) -> bool:
        """The first group for a position arrived, whatever became of it. False if there was nothing left to settle."""
        if self.outstanding.pop(position, None) is None:
            return False
        self.settled.add(position)
        return True

    def compact(self, consumed: dict[int, int]) -> None:
        """Raise ``low`` to each partition's oldest outstanding request, or to where the stream has been consumed.

        Args:
            consumed: next unconsumed offset per partition; every request for an earlier one has been made.
        """
        for partition, end in consumed.items():
            waiting = [offset for p, offset in self.outstanding if p == partition]
            self.low[partition] = max(self.low.get(partition, 0), min(waiting, default=end))
        self.settled = {(p, offset) for p, offset in self.settled if offset >= self.low.get(p, 0)}

    def state(self) -> FrontierState:
        """For the checkpoint."""
        outstanding = [(*position, asked) for position, asked in sorted(self.outstanding.items())]
        return FrontierState(low=self.low, outstanding=outstanding, settled=sorted(self.settled))

    @staticmethod
    def from_state(state: FrontierState) -> Frontier:
        """Inverse of `state`."""
        outstanding = {(partition, offset): asked for partition, offset, asked in state.outstanding}
        return Frontier(dict(state.low), outstanding, set(state.settled))
