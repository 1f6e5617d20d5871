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
from common.item_index import ItemIndex
from common.policy import Memory, Policy
from common.tensor_trie import TensorTrie


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
        self.trie = TensorTrie(index.trie, device)
        self.below = _items_below(self.trie)

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
        for depth, (given, code) in enumerate(zip(logits[mask].unbind(1), codes[mask].unbind(1), strict=True)):
            log_probs = given.log_softmax(-1)
            children, nodes, exists = self.trie.children(depth, node)
            targets = _shares(mass, self.below[depth], nodes, exists)
            taught = -(targets * log_probs.gather(-1, children)).sum(-1).mean()
            came = functional.nll_loss(log_probs, code)
            loss = loss + self.share * taught + (1 - self.share) * came
            node = nodes.gather(-1, (exists & (children == code.unsqueeze(-1))).int().argmax(-1, keepdim=True)).squeeze(-1)
        return loss + functional.cross_entropy(of_item, node)


def _shares(mass: Tensor, below: Tensor, nodes: Tensor, exists: Tensor) -> Tensor:
    """Each child's (B, C) share of its parent's mass, 0 where there is none."""
    own = (mass.gather(-1, below[nodes + 1]) - mass.gather(-1, below[nodes])).masked_fill(~exists, 0)
    return (own / own.sum(-1, keepdim=True).clamp(min=1e-12)).float()


def _items_below(trie: TensorTrie) -> list[Tensor]:
    """Per depth: how many items lie before each node's children, and in all."""
    below = [torch.arange(len(trie.codes[-1]) + 1, device=trie.codes[-1].device)]
    for offsets in reversed(trie.offsets[1:]):
        below.append(below[-1][offsets])
    return below[::-1]
