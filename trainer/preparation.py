"""What a step needs of its sessions: its batch, and the batch's features, which are made while the step before runs.

consumes:     sessions cut for a step, in order
produces:     what the step needs of them
waits for:    the features, when the step is executed
unblocked by: the process that makes them, or its end
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from common.child_process import ChildError
from common.context import Context
from common.features import Featurizer, PolicyInputs
from common.history import Ranges
from common.item_index import snapshot_path
from common.stream import Record
from trainer.batches import Batch, BatchBuilder
from trainer.feature_process import FeatureProcess
from trainer.metrics import waiting_for
from trainer.resume import OpenRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cut:
    """Sessions of one step, of this rank; it may have none where others have."""

    records: list[Record]
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a step needs of its sessions."""

    ranges: Ranges
    featurizer: Featurizer
    """Of the item index that is in force for the step."""
    batch: Batch
    inputs: Callable[[], list[PolicyInputs]]
    """Features of the batch's samples, one for each micro-batch; waits for them if they are being made."""


class Preparation:
    """Prepares steps, one after the other. Histories, filter and play times have then seen the step's sessions."""

    def __init__(self, opened: OpenRun) -> None:
        run, self._opened = opened.run, opened
        self._batches = BatchBuilder(
            opened.settings, opened.indexes.current, opened.history, run.session_filter, run.play_times
        )
        self._asking = ThreadPoolExecutor(1, "features")
        self._process: FeatureProcess | None = None

    def start(self) -> FeatureProcess:
        """The process that makes features, started now unless it was: it takes seconds until it answers."""
        self._process = self._process or FeatureProcess(self._opened.settings.policy)
        return self._process

    def now(self, cut: Cut, featurizer: Featurizer) -> Prepared:
        """Prepare a step that is executed next: its features are made when they are asked for."""
        batch, pieces = self._batch(cut, featurizer)
        return Prepared(cut.ranges, featurizer, batch, lambda: [featurizer(contexts) for contexts in pieces])

    def ahead(self, cut: Cut, featurizer: Featurizer) -> Prepared:
        """Prepare a step that is executed after another one: its features are made meanwhile, in a process of their own."""
        batch, pieces = self._batch(cut, featurizer)
        made = self._asking.submit(self._features, featurizer, pieces)
        return Prepared(cut.ranges, featurizer, batch, waiting_for("features")(made.result))

    def close(self) -> None:
        """End the process."""
        self._asking.shutdown()
        if self._process:
            self._process.close()

    def _batch(self, cut: Cut, featurizer: Featurizer) -> tuple[Batch, list[list[Context]]]:
        """A step's batch, and the contexts of each of its micro-batches."""
        self._batches.index = featurizer.index
        batch = self._batches.build(cut.records, cut.ranges)
        self._opened.history.commit()
        pieces = self._opened.run.training.micro_batches(batch.samples)
        return batch, [[sample.context for sample in piece] for piece in pieces]

    def _features(self, featurizer: Featurizer, pieces: list[list[Context]]) -> list[PolicyInputs]:
        if not pieces:
            return []
        try:
            return self.start()(snapshot_path(self._opened.indexes.folder, featurizer.index.version), pieces)
        except ChildError as error:
            log.warning("features are made in the trainer, this once: %s", error)
            return [featurizer(contexts) for contexts in pieces]
