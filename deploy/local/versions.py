"""The parameter versions that a run folder holds."""

from __future__ import annotations

from common.policy import Policy, build_policy, load_weights
from common.settings import Settings
from deploy.local.run_folder import RunFolder
from trainer.checkpoint import committed, policy_blob

PRETRAINED = 0
LATEST = "latest"


def kept_versions(run: RunFolder) -> list[int]:
    """Steps of the kept checkpoints, ascending; `PRETRAINED` is the policy before streaming."""
    return sorted({*committed(run.checkpoints), *([PRETRAINED] if run.pretrained.is_file() else [])})


def find_version(run: RunFolder, asked: str) -> int:
    """The number of a kept version (a checkpoint's step; 0 is the pre-trained policy) or of the latest one.

    Raises:
        ValueError: it is no number, or such a version is not kept; says which are.
    """
    kept = kept_versions(run)
    if not kept:
        raise ValueError(f"{run.path} holds no weights: neither a checkpoint nor a pre-trained policy")
    if asked == LATEST:
        return kept[-1]
    if not asked.isdecimal():
        raise ValueError(f"--version must be a number or {LATEST}, got {asked!r}")
    if int(asked) not in kept:
        raise ValueError(f"{run.path} does not hold version {asked}; versions kept: {', '.join(map(str, kept))}")
    return int(asked)


def read_policy(run: RunFolder, version: int, settings: Settings) -> Policy:
    """The policy of a kept version.

    Raises:
        CheckpointError: its file is missing, torn or altered.
    """
    policy = build_policy(settings.policy)
    held = version in committed(run.checkpoints)
    load_weights(policy, policy_blob(run.checkpoints, version) if held else run.pretrained.read_bytes())
    return policy
