"""How far each request partition is answered: positions move only over offsets that are settled without a gap."""

from __future__ import annotations

import json
from pathlib import Path

from rollout.run_folder import write_json


class Frontier:
    """One partition's contiguous progress; offsets arrive ascending (gaps are the log's own) and settle in any order."""

    def __init__(self, position: int) -> None:
        self._next = position
        self._open: set[int] = set()

    @property
    def position(self) -> int:
        """The offset to read from after a restart: everything before it is settled."""
        return min(self._open, default=self._next)

    def begin(self, offset: int) -> None:
        """An offset was read."""
        if offset < self._next:
            raise ValueError(f"offset must be at least {self._next}, got {offset}")
        self._open.add(offset)
        self._next = offset + 1

    def settle(self, offset: int) -> None:
        """An offset's answer is durable; settling it twice changes nothing."""
        self._open.discard(offset)


class Ledger:
    """The frontiers of all request partitions, kept in a JSON file.

    Raises:
        ValueError: the file belongs to another run or another partition count, or is not a ledger.
    """

    def __init__(self, path: Path, run: str, partitions: int) -> None:
        self._path = path
        self._run = run
        positions = _read(path, run, partitions) if path.exists() else dict.fromkeys(range(partitions), 0)
        self.frontiers = {partition: Frontier(position) for partition, position in positions.items()}

    @property
    def positions(self) -> dict[int, int]:
        """Where to read on, per partition."""
        return {partition: frontier.position for partition, frontier in self.frontiers.items()}

    def save(self) -> None:
        """Write the positions atomically."""
        write_json(self._path, {"run": self._run, "positions": {str(p): at for p, at in self.positions.items()}})


def _read(path: Path, run: str, partitions: int) -> dict[int, int]:
    try:
        body = json.loads(path.read_bytes())
        owner, positions = body["run"], {int(p): int(at) for p, at in body["positions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a ledger of request positions") from None
    if owner != run:
        raise ValueError(f"{path} belongs to run {owner!r}, not to {run!r}")
    if sorted(positions) != list(range(partitions)):
        raise ValueError(f"{path} must hold partitions 0..{partitions - 1}, got {sorted(positions)}")
    return positions
