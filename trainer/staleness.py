"""How old a group's policy may be, counted in published parameter versions."""

from __future__ import annotations

from collections.abc import Iterable


class Staleness:
    """The parameter versions of this run, in order, and the bound on how far behind the newest a group may be.

    With ``frozen`` rollout stays with the first version, and groups of it alone are trained.
    """

    def __init__(self, max_lag: int, versions: Iterable[int] = (), frozen: bool = False) -> None:
        self.max_lag, self.frozen = max_lag, frozen
        self.versions: list[int] = []
        for version in versions:
            self.publish(version)

    def publish(self, version: int) -> None:
        """A newer version is out.

        Raises:
            ValueError: the version is not newer than the newest.
        """
        if self.versions and version <= self.versions[-1]:
            raise ValueError(f"a new version must be greater than {self.versions[-1]}, got {version}")
        self.versions.append(version)

    @property
    def newest(self) -> int:
        """The newest version; -1 before the first."""
        return self.versions[-1] if self.versions else -1

    @property
    def published(self) -> int:
        """The version that rollout is to have; -1 before the first."""
        return self.versions[0] if self.frozen and self.versions else self.newest

    def knows(self, version: int) -> bool:
        """Whether this run ever published the version."""
        return version in self.versions

    def lag(self, version: int) -> int:
        """Versions of this run that are newer than ``version``."""
        return sum(v > version for v in self.versions)

    def admits(self, version: int) -> bool:
        """Whether a group of this version may still be trained."""
        return version in self.admitted()

    def admitted(self) -> list[int]:
        """All versions that may still be trained, oldest first: their parameters must stay available."""
        return self.versions[:1] if self.frozen else self.versions[-1 - self.max_lag :]
