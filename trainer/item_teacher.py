"""A softmax over all items as the teacher of the codes, for pre-training on catalogues of some ten thousand items.

A semantic ID tells of an item what its codes can, and one next item is little to learn a distribution over codes from. The
teacher scores every item by its own input embedding against what decoding begins with, as next-item models without a
decoder do (SASRec), and is learned beside the policy, whose encoder and tables it shares; it adds no parameters. Its
distribution over items is one over each level's codes too: those are the levels' targets, mixed with the code that came
(knowledge distillation, Hinton et al., 2015). What is decoded later needs no teacher.

Shape legend: R contexts, T targets per context, B targets in all, N distinct semantic IDs, K levels, V codes, D width,
C most children of a node of the trie.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.features import hashed
from common.item_index import ItemIndex, Trie
from common.policy import Memory, Policy


class ItemTeacher:
    """Teaches a policy with an item path (`PolicySettings.item_path`); ``share`` of a level's target is the teacher's."""

    def __init__(self, policy: Policy, index: ItemIndex, share: float) -> None:
        assert policy.settings.item_path
        device = next(policy.parameters()).device
        heads = np.asarray(index.bucket_items)[np.asarray(index.bucket_starts)[:-1]]
        vid = hashed(heads, policy.settings.item_buckets)
        sids = np.asarray(index.sids)[index.rows(heads)].astype(np.int64) + 1
        self.policy, self.share = policy, share
        self.vid, self.sids = torch.from_numpy(vid).to(device), torch.from_numpy(sids).to(device)
        self.levels = [_Level(level, device) for level in _levels(index.trie)]

    def loss(self, memory: Memory, logits: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
        """Mean over targets of the teacher's own loss and of the levels' losses against the mixed targets.

        ``logits`` (R, T, K, V) are the policy's for the targets ``codes`` (R, T, K) where ``mask`` (R, T) is True; all of
        them must be semantic IDs of the index.
        """
        contexts, _ = mask.nonzero(as_tuple=True)
        items = self.policy.event.item(self.vid, self.sids)
        of_item = (memory.begin[:, 0] @ items.T).float()[contexts]
        # Mass of the first n items, in double precision: a rare prefix's share is a difference of two numbers near 1.
        mass = functional.pad(of_item.detach().softmax(-1).double().cumsum(-1), (1, 0))
        node = torch.zeros_like(contexts)
        loss = of_item.new_zeros(())
        for level, given, code in zip(self.levels, logits[mask].float().unbind(1), codes[mask].unbind(1), strict=True):
            log_probs = given.log_softmax(-1)
            children, targets = level.targets(mass, node)
            taught = -(targets * log_probs.gather(-1, children)).sum(-1).mean()
            came = functional.nll_loss(log_probs, code)
            loss = loss + self.share * taught + (1 - self.share) * came
            node = level.child(node, code)
        return loss + functional.cross_entropy(of_item, node)


class _Level:
    """One depth of the trie as tensors: each node's children, and which items lie below each of them."""

    def __init__(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], device: torch.device) -> None:
        self.offsets, self.codes, self.below = (torch.from_numpy(a.astype(np.int64)).to(device) for a in arrays)
        self.degree = int(self.offsets.diff().max())
        self.base = int(self.codes.max()) + 1
        parents = torch.repeat_interleave(torch.arange(len(self.offsets) - 1, device=device), self.offsets.diff())
        self.keys = parents * self.base + self.codes

    def targets(self, mass: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """The children's codes (B, C) of nodes (B,), and each one's share of its node's mass, 0 where there is none."""
        first, last = self.offsets[node], self.offsets[node + 1]
        at = first.unsqueeze(-1) + torch.arange(self.degree, device=node.device)
        exists = at < last.unsqueeze(-1)
        at = at.clamp(max=len(self.codes) - 1)
        own = (mass.gather(-1, self.below[at + 1]) - mass.gather(-1, self.below[at])).masked_fill(~exists, 0)
        return self.codes[at], (own / own.sum(-1, keepdim=True).clamp(min=1e-12)).float()

    def child(self, node: Tensor, code: Tensor) -> Tensor:
        """The node of the next depth that a code (B,) leads to."""
        return torch.searchsorted(self.keys, node * self.base + code)


def _levels(trie: Trie) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per depth: where each node's children begin, their codes, and how many items lie before each child (and in all)."""
    below = np.arange(len(trie.leaf_keys) + 1)
    out = []
    for offsets, codes in zip(reversed(trie.offsets), reversed(trie.child_codes), strict=True):
        out.append((np.asarray(offsets), np.asarray(codes), below))
        below = below[np.asarray(offsets)]
    return out[::-1]
