"""The item indexes that a step may use: the one in force, and the one before it for groups that were made with it."""

from __future__ import annotations

from pathlib import Path

from common.features import Featurizer
from common.item_index import IndexFollower, ItemIndex, pin
from common.item_index import versions as committed
from common.settings import PolicySettings
from trainer.journal import JournalError

READER = "trainer"


class Indexes:
    """Follows a folder of snapshots. A newer one comes into force between two steps, and only by `adopt` or `go_to`."""

    def __init__(self, folder: Path, policy: PolicySettings, versions: list[int]) -> None:
        """Open the snapshots that a checkpoint names, the one in force last.

        A run without a checkpoint begins with the oldest there is: what is newer comes in through the journal.

        Raises:
            ValueError: one of them is missing or damaged.
        """
        self.folder, self._policy = folder, policy
        self._follower = IndexFollower(folder, versions[0] if versions else min(committed(folder), default=None))
        self._featurizers: dict[int, Featurizer] = {}
        try:
            for version in versions[1:]:
                self.go_to(version)
        except ValueError:
            self._follower.close()
            raise

    @property
    def current(self) -> ItemIndex:
        """The index in force."""
        return self._follower.current

    @property
    def versions(self) -> list[int]:
        """The versions held, the one in force last."""
        return list(self._follower.held)

    @property
    def refused(self) -> int:
        """Snapshots that could not be used."""
        return self._follower.refused

    def adopt(self) -> bool:
        """Bring a newer snapshot into force if one has been loaded; waits for nothing."""
        return self._follower.poll()

    def go_to(self, version: int) -> None:
        """Bring a version into force that the journal or the checkpoint names.

        Raises:
            JournalError: it is older than the one in force, or gone, or damaged.
        """
        if version != self.current.version and (self._follower.get(version) is None or self.current.version != version):
            raise JournalError(f"item index {version} is needed to go on, but it is not in {self.folder}")

    def featurizer(self, version: int) -> Featurizer | None:
        """What turns contexts into features by a version that is held; None for any other."""
        held = self._follower.held
        if version not in held:
            return None
        if version not in self._featurizers:
            self._featurizers = {v: f for v, f in self._featurizers.items() if v in held}
            self._featurizers[version] = Featurizer(self._policy, held[version])
        return self._featurizers[version]

    def pin(self, version: int) -> None:
        """Have this version and all newer ones kept."""
        pin(self.folder, READER, version)

    def close(self) -> None:
        """Stop following."""
        self._follower.close()
