"""Scores items for one context with a committed model, against the current or the previous item index."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from common.context import Context
from common.item_index import IndexFollower, ItemIndex
from common.messages import ScoreRequest, ScoreResponse, UserContext
from common.metrics import REWARD_INDEX_VERSION, REWARD_MODEL_VERSION
from common.settings import RewardSettings
from reward_service.artefact import Artefact
from reward_service.follower import ModelFollower
from reward_service.inputs import InputBuilder, Requests, Targets
from reward_service.labels import OBJECTIVES, TOWERS
from reward_service.rewards import P_SCORE, Rewards

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
log = logging.getLogger(__name__)


class UnknownItemError(ValueError):
    """An item id that the index snapshot does not have; ``position`` is its place in ``item_ids``."""

    def __init__(self, position: int, item_id: int, index_version: int) -> None:
        super().__init__(f"item {item_id} is not in item index {index_version}")
        self.position = position


class GoneError(LookupError):
    """The named index or model version is neither the current nor the previous one."""


class Scorer:
    """Preference models and the index snapshots they answer for. Safe to call from several threads.

    A newer model or snapshot is taken up between two requests; a request is answered by one of each.
    """

    def __init__(self, reward_folder: Path, index_folder: Path, rewards: Rewards | None = None) -> None:
        """Load the newest committed model and the newest two snapshots of the folders. By default the reward is the P-Score.

        Raises:
            ValueError: nothing committed there, a damaged file, or an index of another tokenizer than the model's.
        """
        self._models = ModelFollower(reward_folder)
        self._rewards = rewards or Rewards(RewardSettings())
        try:
            self._indexes = IndexFollower(index_folder)
        except ValueError:
            self._models.close()
            raise
        try:
            self._check_tokenizer(index_folder)
        except ValueError:
            self.close()
            raise
        self._lock = threading.Lock()
        self._show_model()
        self._builders: dict[int, InputBuilder] = {}

    @property
    def current(self) -> Artefact:
        """The model that answers where a request names none."""
        return self._models.current

    @property
    def versions(self) -> list[str]:
        """The model versions that are answered by, current one last."""
        return self._models.versions

    @property
    def index_versions(self) -> list[int]:
        """The versions that are answered, current one last."""
        return list(self._indexes.held)

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """Rewards of every item and, unless only they are asked for, P-Score and tower probabilities, in order.

        Raises:
            GoneError: the index version or the model version is not held.
            UnknownItemError: an item is not in that index.
            ArithmeticError: the model gave a value that is no probability.
        """
        artefact, index, rows, columns = self._judge(request)
        told = not request.rewards_only
        return ScoreResponse(
            reward_version=artefact.card.version,
            index_version=request.index_version,
            rewards=self._rewards(columns, index, rows, request.terms).tolist(),
            p_score=columns[P_SCORE].tolist() if told else [],
            towers={objective: columns[objective].tolist() for objective in OBJECTIVES} if told else {},
        )

    def _judge(self, request: ScoreRequest) -> tuple[Artefact, ItemIndex, Ints, dict[str, Floats]]:
        """The model that answers, the index, the items' rows in it, and their probabilities by term."""
        artefact, builder = self._artefact(request.reward_version), self._builder(request.index_version)
        rows = builder.index.rows(np.asarray(request.item_ids, np.int64))
        if (rows < 0).any():
            position = int(np.argmax(rows < 0))
            raise UnknownItemError(position, request.item_ids[position], request.index_version)
        context = Context.from_message(request.context)
        targets = Targets(np.zeros(len(rows), np.int64), rows, np.full(len(rows), context.tab, np.int64))
        with torch.inference_mode():
            outputs = artefact.model(builder(Requests.of_contexts([context], artefact.card.shape), targets))
            p, towers = outputs.p.sigmoid(), outputs.towers.sigmoid()
            together = p.sum() + towers.sum()  # of sigmoids, never infinite; one that is no number makes it none
        if together.isnan():
            raise ArithmeticError(f"model {artefact.card.version} gave a score that is not finite")
        columns = dict(zip(TOWERS, towers.T.numpy(), strict=True))
        return artefact, builder.index, rows, columns | {P_SCORE: p.numpy()}

    def warm_up(self) -> None:
        """Judge the current index's first item for a new user, as a request would. It counts in no share of items."""
        index = self._indexes.current
        first = int(index.item_ids[0])
        self._judge(ScoreRequest(context=UserContext(user_id=0, time_ms=0), item_ids=[first], index_version=index.version))

    def close(self) -> None:
        """Stop following models and index."""
        self._models.close()
        self._indexes.close()

    def _artefact(self, version: str) -> Artefact:
        if self._models.poll(self._indexes.current):
            self._show_model()
        artefact = self._models.get(version) if version else self.current
        if artefact is None:
            raise GoneError(f"reward_version {version!r} is not held, only {self.versions}")
        return artefact

    def _builder(self, version: int) -> InputBuilder:
        self._indexes.poll()
        index = self._indexes.get(version)
        REWARD_INDEX_VERSION.set(self._indexes.current.version)
        if index is None:
            raise GoneError(f"index_version {version} is not held, only {self.index_versions}")
        with self._lock:
            if version not in self._builders:
                held = self._indexes.held
                self._builders = {v: builder for v, builder in self._builders.items() if v in held}
                self._builders[version] = InputBuilder(self.current.card.shape, index)
            return self._builders[version]

    def _show_model(self) -> None:
        version = self.current.card.version
        REWARD_MODEL_VERSION.set(int(version.partition("-")[0]))
        log.info("answers with preference model %s", version)

    def _check_tokenizer(self, folder: Path) -> None:
        index = self._indexes.current
        card = self.current.card
        wanted = (card.tokenizer_version, card.shape.codes)
        if (index.tokenizer_version, index.codes) != wanted:
            raise ValueError(
                f"item index {index.version} in {folder} has tokenizer {index.tokenizer_version!r}, {index.codes} codes; "
                f"model {card.version} was trained with {wanted[0]!r} and {wanted[1]}"
            )
