"""The legal semantic IDs as numbers and as a prefix trie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trie:
    """The legal SIDs as CSR arrays per depth; nodes of a depth are numbered in lexicographic order of their prefixes.

    The children of node n at depth l sit at positions ``offsets[l][n] <= p < offsets[l][n + 1]`` of ``child_codes[l]``
    (sorted within the node), and the child at position p is node p of depth l + 1. At the last depth the positions
    enumerate the distinct legal SIDs, whose keys are ``leaf_keys`` (ascending).
    """

    offsets: list[Ints]
    child_codes: list[npt.NDArray[np.int32]]
    leaf_keys: Ints

    @staticmethod
    def of(leaf_keys: Ints, codes: int, levels: int) -> Trie:
        """The trie of ascending distinct SID keys."""
        offsets, child_codes = [], []
        nodes = leaf_keys
        for _ in range(levels):
            parents, code = np.divmod(nodes, codes)
            starts = group_starts(parents)
            offsets.append(starts)
            child_codes.append(code.astype(np.int32))
            nodes = parents[starts[:-1]]
        return Trie(offsets[::-1], child_codes[::-1], leaf_keys)


def sid_keys(sids: npt.NDArray[np.integer], codes: int) -> Ints:
    """SIDs (..., K) as one number each: s_1 N_t^(K-1) + ... + s_K with N_t = ``codes``. Codes must lie in 0..N_t-1."""
    keys: Ints = sids[..., 0].astype(np.int64)
    for level in range(1, sids.shape[-1]):
        keys *= codes
        keys += sids[..., level]
    return keys


def group_starts(ascending: Ints) -> Ints:
    """Where each run of equal values begins, and the length of the whole at the end."""
    begins = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    return np.concatenate(([0], begins, [len(ascending)])).astype(np.int64)
