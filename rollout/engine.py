"""Contexts in, candidates out: the one generation path of rollout, evaluation and serving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from common.context import Context
from common.features import Featurizer
from common.item_index import ItemIndex
from common.messages import NO_ITEM
from common.policy import Policy
from rollout.beam_search import TensorTrie, beam_search


@dataclass(frozen=True, slots=True)
class Candidates:
    """G generated semantic IDs of one user, most probable first; K levels."""

    codes: npt.NDArray[np.int64]  # (G, K)
    log_probs: npt.NDArray[np.float32]  # (G, K), per level
    item_ids: npt.NDArray[np.int64]  # (G,), NO_ITEM where the semantic ID belongs to no item

    @property
    def legality(self) -> float:
        """Share of candidates that are items."""
        return float((self.item_ids != NO_ITEM).mean())


class GenerationEngine:
    """Generates with the policy's current weights; swap weights only between two calls."""

    def __init__(self, policy: Policy, index: ItemIndex, width: int, constrained: bool = False) -> None:
        self.policy = policy.eval()
        self.index = index
        self.width = width
        self.featurizer = Featurizer(policy.settings, index)
        self.trie = TensorTrie(index.trie, next(policy.parameters()).device) if constrained else None

    @torch.no_grad()
    def generate(self, contexts: list[Context]) -> list[Candidates]:
        """One beam search for all contexts. Constrained searches return fewer than ``width`` if items run out."""
        device = next(self.policy.parameters()).device
        memory = self.policy.encode(self.featurizer(contexts).to(device))
        beams = beam_search(self.policy, memory, self.width, self.trie)
        all_codes, all_log_probs = beams.codes.cpu().numpy(), beams.log_probs.cpu().numpy()
        out = []
        for codes, log_probs in zip(all_codes, all_log_probs, strict=True):
            found = np.isfinite(log_probs).all(-1)
            out.append(Candidates(codes[found], log_probs[found], self.index.head_items(codes[found])))
        return out
