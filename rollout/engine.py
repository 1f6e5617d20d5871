"""Contexts in, candidates out: the one generation path of rollout, evaluation and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.context import Context
from common.features import Featurizer
from common.item_index import ItemIndex
from common.messages import NO_ITEM
from common.policy import Policy
from common.tensor_trie import TensorTrie
from rollout.beam_search import beam_search
from rollout.extensions import NO_NUMBERS
from rollout.sampling import Truncation, sample


@dataclass(frozen=True, slots=True)
class Candidates:
    """G generated semantic IDs of one user; a beam's, most probable first, or draws as they came. K levels."""

    codes: npt.NDArray[np.int64]  # (G, K)
    log_probs: npt.NDArray[np.float32]  # (G, K), per level
    item_ids: npt.NDArray[np.int64]  # (G,), NO_ITEM where the semantic ID belongs to no item

    @property
    def legality(self) -> float:
        """Share of candidates that are items."""
        return float((self.item_ids != NO_ITEM).mean())

    def first(self, count: int) -> Candidates:
        """Of a beam the most probable ones."""
        return Candidates(self.codes[:count], self.log_probs[:count], self.item_ids[:count])


class GenerationEngine:
    """Generates with the policy's current weights; swap weights only between two calls.

    A beam search, free or constrained, or with ``truncation`` ``width`` free draws.
    """

    def __init__(
        self, policy: Policy, index: ItemIndex, width: int, constrained: bool = False, truncation: Truncation | None = None
    ) -> None:
        assert not (constrained and truncation), "draws are free"
        self.policy = policy.eval()
        self.index = index
        self.width = width
        self.featurizer = Featurizer(policy.settings, index)
        self.truncation = truncation
        self.trie = TensorTrie(index.trie, next(policy.parameters()).device) if constrained else None

    @torch.no_grad()
    def generate(self, contexts: list[Context], seeds: Sequence[int] = ()) -> list[Candidates]:
        """One beam search for all contexts; constrained ones return fewer than ``width`` if items run out.

        Draws need a seed for each context, on which alone they depend: not on the other contexts.

        Raises:
            ArithmeticError: the policy gives log-probabilities that are no numbers.
        """
        return self._generate(contexts, seeds, self.trie)

    @torch.no_grad()
    def generate_under(self, contexts: list[Context], prefixes: Sequence[npt.NDArray[np.integer]]) -> list[Candidates]:
        """As a constrained `generate`, but a user's items begin with one of the user's prefixes (P, k), such as a slower
        model has chosen beforehand (OneRec-Think, Think-Ahead serving). A user without prefixes gets any items.

        Raises:
            ValueError: as `TensorTrie.under`.
        """
        assert self.trie is not None, "only a constrained engine knows which prefixes items have"
        bound = [user for user, prefix in enumerate(prefixes) if len(prefix)]
        free = [user for user, prefix in enumerate(prefixes) if not len(prefix)]
        found: dict[int, Candidates] = {}
        if bound:
            below = self.trie.under([torch.from_numpy(prefixes[user]).long() for user in bound])
            found |= zip(bound, self._generate([contexts[user] for user in bound], (), below), strict=True)
        if free:
            found |= zip(free, self.generate([contexts[user] for user in free]), strict=True)
        return [found[user] for user in range(len(contexts))]

    def _generate(self, contexts: list[Context], seeds: Sequence[int], trie: TensorTrie | None) -> list[Candidates]:
        device = next(self.policy.parameters()).device
        memory = self.policy.encode(self.featurizer(contexts).to(device))
        if self.truncation:
            beams = sample(self.policy, memory, self._uniforms(contexts, seeds).to(device), self.truncation)
        else:
            beams = beam_search(self.policy, memory, self.width, trie)
        all_codes, all_log_probs = beams.codes.cpu().numpy(), beams.log_probs.cpu().numpy()
        out = []
        if np.isnan(all_log_probs).any():
            raise ArithmeticError(NO_NUMBERS)
        for codes, log_probs in zip(all_codes, all_log_probs, strict=True):
            found = np.isfinite(log_probs).all(-1)
            out.append(Candidates(codes[found], log_probs[found], self.index.head_items(codes[found])))
        return out

    def _uniforms(self, contexts: list[Context], seeds: Sequence[int]) -> Tensor:
        shape = (self.width, self.policy.settings.levels)
        return torch.stack(
            [torch.rand(shape, generator=torch.Generator().manual_seed(s)) for _, s in zip(contexts, seeds, strict=True)]
        )
