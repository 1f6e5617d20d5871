"""Item vectors: a collaborative and a content part side by side, each of length 1 times its weight.

Shape legend: N items, d_c and d_t widths of the two parts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tokenizer_job.item_vectors.content import unit_rows

Floats = npt.NDArray[np.float32]
NEIGHBOURS = 10
CHUNK = 1024


def join_vectors(collaborative: Floats, content: Floats, collaborative_weight: float, content_weight: float) -> Floats:
    """The vectors (N, d_c + d_t) that are tokenised.

    An item that no user has met (a zero collaborative row) takes the mean of the collaborative vectors of its nearest
    neighbours in content, so that it shares its leading codes with items like it instead of with all other new items.
    """
    collaborative = fill_unseen(unit_rows(collaborative), content)
    return np.concatenate([collaborative_weight * collaborative, content_weight * content], axis=1).astype(np.float32)


def fill_unseen(collaborative: Floats, content: Floats) -> Floats:
    """Give zero rows the normalised mean of the `NEIGHBOURS` seen items most like them in content (cosine).

    Rows stay zero where nothing is known of an item's content, or where no item has been seen.
    """
    seen = np.flatnonzero(collaborative.any(1) & content.any(1))
    unseen = np.flatnonzero(~collaborative.any(1) & content.any(1))
    filled = collaborative.copy()
    if not len(seen):
        return filled
    for chunk in np.array_split(unseen, -(-len(unseen) // CHUNK) or 1):
        likeness = content[chunk] @ content[seen].T
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :NEIGHBOURS]
        filled[chunk] = unit_rows(collaborative[seen[nearest]].mean(1))
    return filled
