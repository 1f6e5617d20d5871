"""Item vectors: a collaborative and a content part side by side, each of length 1 times its weight.

Shape legend: N items, S items that users have met, c and w widths of the two parts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenizer_job.item_vectors.content import unit_rows

Floats = npt.NDArray[np.float32]
NEIGHBOURS = 10
CHUNK_BYTES = 2**27
"""Of the likenesses of some items to all that were met, and of the order of these."""


def join(collaborative: Floats, content: Floats, collaborative_weight: float, content_weight: float) -> Floats:
    """The vectors (N, c + w) that are quantised, from parts with rows of length 1 or 0."""
    return np.concatenate([collaborative_weight * collaborative, content_weight * content], axis=1).astype(np.float32)


def neighbours_mean(content: Floats, seen_content: Floats, seen_collaborative: Floats) -> Floats:
    """What behaviour would tell of items (N, w) that nobody met: the mean (N, c) of the `NEIGHBOURS` most like them.

    With it a new item shares its leading codes with items like it, instead of with all other new items. Of length 1;
    zero where nothing is known of an item's content, or nothing has been seen. Likeness is the cosine of content (S, w).
    """
    mean = np.zeros((len(content), seen_collaborative.shape[1]), np.float32)
    known = np.flatnonzero(content.any(1))
    if not len(seen_content):
        return mean
    rows = max(1, CHUNK_BYTES // (16 * len(seen_content)))
    for start in range(0, len(known), rows):
        chunk = known[start : start + rows]
        unlike = -(content[chunk] @ seen_content.T)
        few = min(NEIGHBOURS, len(seen_content))
        nearest = np.argpartition(unlike, few - 1, axis=1)[:, :few]
        mean[chunk] = unit_rows(seen_collaborative[np.sort(nearest, axis=1)].mean(1))
    return mean
