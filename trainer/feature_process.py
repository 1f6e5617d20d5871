"""Features made in a process beside the trainer's: a thread of it would take the interpreter from the step."""

from __future__ import annotations

from pathlib import Path

from common.child_process import ChildProcess, answer_questions
from common.compute import compute_with
from common.context import Context
from common.features import Featurizer, PolicyInputs
from common.item_index import ItemIndex
from common.settings import PolicySettings

TIMEOUT_S = 600.0
"""For the features of one step."""


class FeatureProcess:
    """Makes what `Featurizer` makes. For one thread at a time."""

    def __init__(self, policy: PolicySettings) -> None:
        self._policy, self._process = policy, ChildProcess(__name__)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __call__(self, snapshot: Path, pieces: list[list[Context]]) -> list[PolicyInputs]:
        """The features of each list of contexts, by the item index of a snapshot that was verified.

        Raises:
            ChildError: the process ended (its traceback is on stderr), or took longer than `TIMEOUT_S`.
        """
        made: list[PolicyInputs] = self._process.ask((self._policy, snapshot, pieces), TIMEOUT_S)
        return made

    def close(self) -> None:
        """End the process."""
        self._process.close()


def main() -> None:
    """What the process runs. It keeps the last featurizer alone: what made way for a newer index is not asked for again."""
    compute_with(threads=1)
    kept: dict[Path, Featurizer] = {}

    def features(asked: tuple[PolicySettings, Path, list[list[Context]]]) -> list[PolicyInputs]:
        policy, snapshot, pieces = asked
        if snapshot not in kept:
            kept.clear()
            kept[snapshot] = Featurizer(policy, ItemIndex.load(snapshot, verify=lambda _: None))
        return [kept[snapshot](contexts) for contexts in pieces]

    answer_questions(features)
