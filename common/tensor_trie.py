"""The trie of legal semantic IDs on torch's side: for searches and losses over all children of many nodes at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.item_index import Trie


class TensorTrie:
    """A CSR trie as tensors: the children of node n at depth k are positions offsets[k][n] .. offsets[k][n + 1]."""

    def __init__(self, trie: Trie, device: torch.device | str = "cpu") -> None:
        self.offsets = [torch.from_numpy(np.array(o, np.int64)).to(device) for o in trie.offsets]
        self.codes = [torch.from_numpy(np.array(c, np.int64)).to(device) for c in trie.child_codes]
        self.degree = [int((o[1:] - o[:-1]).max()) for o in self.offsets]

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes (…) -> the children's codes, their node numbers, and which of them exist, each (…, C)."""
        first, last = self.offsets[depth][nodes], self.offsets[depth][nodes + 1]
        position = first.unsqueeze(-1) + torch.arange(self.degree[depth], device=nodes.device)
        exists = position < last.unsqueeze(-1)
        position = position.clamp(max=len(self.codes[depth]) - 1)
        return self.codes[depth][position], position, exists
