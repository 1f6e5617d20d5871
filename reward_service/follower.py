"""Following a folder of preference models: a newer version is loaded in the background and swapped in between two requests.

Consumes: committed artefacts. Produces: the current and the previous one. Waits for: nothing, `poll` returns at once.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch

from common.context import Context
from common.item_index import ItemIndex
from common.lookout import Lookout
from reward_service.artefact import Artefact, committed, load_artefact
from reward_service.inputs import InputBuilder, Requests, Targets

LOOK_EVERY_S = 0.5
HELD = 2
"""Versions kept: the current and the previous one, so that a request may pin the version it began with."""
log = logging.getLogger(__name__)


class ModelFollower:
    """The current and the previous version. Safe to call from several threads.

    A version that is damaged, of another tokenizer or shape, or that gives no probability for an item is refused and logged
    once; what is held stays.
    """

    def __init__(self, folder: Path) -> None:
        """Load the newest committed version.

        Raises:
            ValueError: there is none, or a file of it is missing, torn or changed.
        """
        self._folder = folder
        first = load_artefact(folder)
        self._held = {first.card.version: first}
        self._newest = max(committed(folder))
        self._lookout = Lookout[Artefact]("model-loader")

    @property
    def current(self) -> Artefact:
        """The newest version taken up."""
        return list(self._held.values())[-1]

    @property
    def versions(self) -> list[str]:
        """The versions held, the current one last."""
        return list(self._held)

    def get(self, version: str) -> Artefact | None:
        """A version that is held."""
        return self._held.get(version)

    def poll(self, index: ItemIndex) -> bool:
        """Take up a newer version if one has been loaded and tried on an index; whether ``current`` changed now."""
        artefact = self._lookout.poll(partial(self._look, self.current, index), LOOK_EVERY_S)
        if artefact is None:
            return False
        held = {**self._held, artefact.card.version: artefact}
        self._held = dict(list(held.items())[-HELD:])
        return True

    def close(self) -> None:
        """Stop following. What is held stays."""
        self._lookout.close()

    def _look(self, current: Artefact, index: ItemIndex) -> Artefact | None:
        """The newest committed version, if it is newer than all that were looked at before and fit for use."""
        newest = max(committed(self._folder), default=0)
        if newest <= self._newest:
            return None
        self._newest = newest
        try:
            artefact = load_artefact(self._folder, newest)
            _check_like(artefact, current)
            _check_scores(artefact, index)
        except (ValueError, RuntimeError, OSError) as error:
            log.warning("preference model %06d is refused: %s", newest, error)
            return None
        return artefact


def _check_like(artefact: Artefact, current: Artefact) -> None:
    for name in ("tokenizer_version", "shape"):
        ours, theirs = getattr(artefact.card, name), getattr(current.card, name)
        if ours != theirs:
            raise ValueError(f"its {name} must be {theirs!r} as in model {current.card.version}, got {ours!r}")


def _check_scores(artefact: Artefact, index: ItemIndex) -> None:
    """Score some items for a user without a history: every answer must be a probability."""
    rows = torch.linspace(0, len(index) - 1, min(64, len(index))).long().numpy()
    nobody = Requests.of_contexts([Context(user_id=0, time_ms=0)], artefact.card.shape)
    with torch.inference_mode():
        outputs = artefact.model(InputBuilder(artefact.card.shape, index)(nobody, Targets(rows * 0, rows, rows * 0)))
    if not (outputs.p.isfinite().all() and outputs.towers.isfinite().all()):
        raise ValueError("it gives a score that is not finite")
