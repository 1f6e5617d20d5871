"""The trie of legal semantic IDs on torch's side: for searches and losses over all children of many nodes at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.item_index import Trie


class TensorTrie:
    """A CSR trie as tensors: the children of node n at depth k are positions offsets[k][n] .. offsets[k][n + 1].

    It has one root, or with `under` one for each user.
    """

    def __init__(self, trie: Trie, device: torch.device | str = "cpu") -> None:
        offsets = [torch.from_numpy(np.array(o, np.int64)).to(device) for o in trie.offsets]
        self._set(offsets, [torch.from_numpy(np.array(c, np.int64)).to(device) for c in trie.child_codes])

    def _set(self, offsets: list[Tensor], codes: list[Tensor]) -> None:
        self.offsets = offsets
        self.degree = [int((o[1:] - o[:-1]).max()) for o in offsets]
        padded = [functional.pad(c, (0, degree)) for c, degree in zip(codes, self.degree, strict=True)]
        self.codes = [row[: len(c)] for row, c in zip(padded, codes, strict=True)]
        # The codes from each position on: rows overlap in memory, and a node's children are copied as one.
        self._rows = [row.unfold(0, degree, 1) for row, degree in zip(padded, self.degree, strict=True)]

    def roots(self, users: int) -> Tensor:
        """The node at which each user's search begins (users,)."""
        count = len(self.offsets[0]) - 1
        assert count in {1, users}, f"{count} roots for {users} users"
        return torch.arange(count, device=self.codes[0].device).expand(users)

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes (…) -> the children's codes, their node numbers, and which of them exist, each (…, C)."""
        first, last = self.offsets[depth][nodes], self.offsets[depth][nodes + 1]
        codes = self._rows[depth].index_select(0, first.flatten()).view(*first.shape, self.degree[depth])
        position = first.unsqueeze(-1) + torch.arange(self.degree[depth], device=nodes.device)
        exists = position < last.unsqueeze(-1)
        return codes, position.clamp_(max=len(self.codes[depth]) - 1), exists

    def under(self, prefixes: Sequence[Tensor]) -> TensorTrie:
        """For each user, what begins with one of the user's prefixes (P, k), k < levels. Illegal prefixes leave nothing.

        Raises:
            ValueError: prefixes differ in length, are as long as a semantic ID, or none of a user's is legal.
        """
        lengths = sorted({prefix.shape[1] for prefix in prefixes})
        if len(lengths) != 1 or not 0 < lengths[0] < len(self.codes):
            raise ValueError(f"prefixes must have one length from 1 to {len(self.codes) - 1}, got {lengths}")
        device = self.codes[0].device
        owner = torch.cat([torch.full((len(prefix),), user, device=device) for user, prefix in enumerate(prefixes)])
        paths = self._paths(torch.cat(list(prefixes)).to(device))
        legal = (paths >= 0).all(1)
        without = sorted(set(range(len(prefixes))) - set(owner[legal].tolist()))
        if without:
            raise ValueError(f"no prefix of users {without} belongs to an item")
        return self._cut(owner[legal], paths[legal])

    def _paths(self, prefixes: Tensor) -> Tensor:
        """The node after every code of prefixes (N, k), or -1 from the first that is no child."""
        node = prefixes.new_zeros(len(prefixes))
        path = []
        for depth, code in enumerate(prefixes.unbind(1)):
            codes, nodes, exists = self.children(depth, node.clamp(min=0))
            found = exists & (codes == code.unsqueeze(-1)) & (node >= 0).unsqueeze(-1)
            node = torch.where(found.any(1), nodes.gather(1, found.int().argmax(1, keepdim=True)).squeeze(1), -1)
            path.append(node)
        return torch.stack(path, 1)

    def _cut(self, owner: Tensor, paths: Tensor) -> TensorTrie:
        """A trie of the paths (N, k), with a root for every owner, and of everything below them."""
        offsets, codes = [], []
        parents = torch.unique(owner)
        above = torch.stack((owner, torch.zeros_like(owner)), 1)
        for depth, node in enumerate(paths.unbind(1)):
            # children in order of their parents: nodes are numbered in that order, and by code below one parent
            own, at = torch.unique(torch.stack((owner, node), 1), dim=0, return_inverse=True)
            parent_of = own.new_zeros(len(own)).index_copy(0, at, torch.unique(above, dim=0, return_inverse=True)[1])
            offsets.append(_offsets(torch.bincount(parent_of, minlength=len(parents))))
            codes.append(self.codes[depth][own[:, 1]])
            parents, above = own[:, 1], torch.stack((owner, node), 1)
        for depth in range(paths.shape[1], len(self.codes)):
            first, last = self.offsets[depth][parents], self.offsets[depth][parents + 1]
            size = last - first
            offsets.append(_offsets(size))
            parents = torch.arange(int(size.sum()), device=size.device) + (first - offsets[-1][:-1]).repeat_interleave(size)
            codes.append(self.codes[depth][parents])
        cut = object.__new__(TensorTrie)
        cut._set(offsets, codes)
        return cut


def _offsets(sizes: Tensor) -> Tensor:
    return torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))
