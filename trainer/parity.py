"""Do trainer and fleet compute the same numbers? Recompute a group's log-probs with the very version it names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch

from common.context import Context
from common.features import Featurizer
from common.policy import Policy, build_policy, load_weights
from common.settings import PolicySettings

MAX_PARITY_ERROR = 1e-3
"""Largest mean |ratio - 1| at which a group's log-probs count as those of the version it names."""


class Snapshots:
    """Policies at published versions, loaded from their checkpoints when a group first names them."""

    def __init__(self, blob_of: Callable[[int], bytes]) -> None:
        self._blob_of = blob_of
        self._policies: dict[int, Policy] = {}

    def keep(self, versions: Iterable[int]) -> None:
        """Forget every version but these."""
        wanted = set(versions)
        self._policies = {version: policy for version, policy in self._policies.items() if version in wanted}

    def parity_error(
        self,
        version: int,
        context: Context,
        featurizer: Featurizer,
        codes: npt.NDArray[np.int64],
        log_probs: npt.NDArray[np.float32],
    ) -> float:
        """Mean over candidates of |pi(item) by this version / pi_old(item) as logged - 1|; codes and log-probs (G, K).

        Raises:
            CheckpointError: the version's checkpoint is gone or damaged.
        """
        policy = self._policy(version, featurizer.policy)
        with torch.no_grad():
            memory = policy.encode(featurizer([context]))
            recomputed = policy.log_probs(memory, torch.from_numpy(codes)[None])[0].sum(-1)
        ratio = torch.exp(recomputed.double() - torch.from_numpy(log_probs).double().sum(-1))
        return float((ratio - 1).abs().mean())

    def _policy(self, version: int, settings: PolicySettings) -> Policy:
        if version not in self._policies:
            policy = build_policy(settings)
            load_weights(policy, self._blob_of(version))
            self._policies[version] = policy.eval()
        return self._policies[version]
