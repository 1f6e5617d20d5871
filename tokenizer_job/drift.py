"""Do new items still look like those that the codebooks were fitted on?"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

MEMORY = 1000.0
"""New items that the running means look back on."""


class Drift(BaseModel):
    """Running means over new items; a snapshot's note carries them, so that they outlive the process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: Annotated[float, Field(ge=0)]
    """Mean residual norm of items of the fitted catalogue, encoded as if they were new."""
    items: int = 0
    residual_norm: float = 0.0
    """Mean length of what the codes leave of a new item's vector."""
    empty_share: float = 0.0
    """Share of new items whose codes no item had, before the choice of free ones."""

    def after(self, norms: npt.NDArray[np.floating], empty: npt.NDArray[np.bool_]) -> Drift:
        """The means with some more items, whose residual norms are given and whether their ID was unused.

        A plain mean over the first `MEMORY` items, then one that forgets older ones exponentially.
        """
        if not len(norms):
            return self
        items = self.items + len(norms)
        weight = min(1.0, len(norms) / min(items, MEMORY))
        return self.model_copy(
            update={
                "items": items,
                "residual_norm": (1 - weight) * self.residual_norm + weight * float(norms.mean()),
                "empty_share": (1 - weight) * self.empty_share + weight * float(empty.mean()),
            }
        )

    @property
    def ratio(self) -> float:
        """Residual norm of new items over that of the catalogue at the fit; 1 before the first new item."""
        return self.residual_norm / self.reference if self.items and self.reference > 0 else 1.0

    def alarms(self, share: float) -> bool:
        """Whether new items are worse described by more than ``share``: then the codebooks want a refit.

        A refit is a new tokenizer version, hence a new vocabulary: it belongs with a new pre-training.
        """
        return self.ratio > 1 + share
