"""The contrastive loss over item pairs (OneRec technical report, section "Tokenizer").

Shape legend: B pairs (i, j) of a batch, D vector width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

Ints = npt.NDArray[np.int64]


def info_nce(
    anchors: Tensor, others: Tensor, temperature: float, excluded: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """-mean over pairs of log softmax(cos(i, j') / temperature) at j' = j; the negatives are the others' sides.

    Args:
        anchors: unit vectors (B, D) of the i.
        others: unit vectors (B, D) of the j.
        temperature: of the softmax.
        excluded: (B, B) True at [i, j'] that are no negatives; see `false_negatives`.
        bias: (B,) taken from the logits of each j', for example the log of its sampling probability (Yi et al. 2019).
    """
    logits = anchors @ others.T / temperature
    if bias is not None:
        logits = logits - bias
    if excluded is not None:
        logits = logits.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(logits, torch.arange(len(logits)))


def false_negatives(anchor: Ints, other: Ints, known: sparse.csr_array) -> Tensor:
    """(B, B), True at [i, j'] where j' is not a negative of pair (i, j): j' = j, j' = i, or (i, j') is a known pair.

    The pair's own column is never excluded. ``known`` is a symmetric boolean (N, N) of all pairs.
    """
    excluded = (other[None] == other[:, None]) | (other[None] == anchor[:, None])
    excluded |= known[anchor][:, other].toarray()
    np.fill_diagonal(excluded, False)
    return torch.from_numpy(excluded)
