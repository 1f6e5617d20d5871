"""A run folder that can be evaluated, made in a second: an untrained policy and a briefly trained preference model."""

from __future__ import annotations

from pathlib import Path

from common.policy import build_policy, to_blob
from common.settings import load_settings
from deploy.local.run_folder import RunFolder
from reward_service.training import train_preference_model
from tests.reward_service.tiny_world import CODES, make_index, make_sessions, write_log
from trainer.checkpoint import Checkpoint, Identity, RunState, commit

SMALL = [
    "split.warm_days=1", "split.stream_days=1", "split.test_days=1", "reward.width=8", "reward.history=6", "reward.epochs=1",
    "policy.d_model=16", "policy.heads=2", "policy.ffn=16", f"policy.codes={CODES}", "policy.feature_width=4",
    'policy.static_fields=["sex"]', "evaluation.beam=40",
]  # fmt: skip


def make_run(path: Path) -> RunFolder:
    """Pre-trained weights and checkpoints 5 and 9, each of another seed."""
    settings = load_settings(overrides=SMALL)
    run = RunFolder.create(path, settings, {"kind": "simulate", "path": ""})
    log, index = write_log(run.log, make_sessions()), make_index()
    index.save(run.index / "000001")
    train_preference_model(log, index, settings, run.path, settings.split.warm_days, lambda _: None)
    run.pretrained.parent.mkdir()
    run.pretrained.write_bytes(to_blob(build_policy(settings.policy, 0)))
    made = {"tokenizer_version": "t1", "settings_digest": "", "machine": "", "torch": "", "threads": 1}
    identity = Identity.model_validate({"run": "run", "prefix": "p", "partitions": {}, "logs": {}, **made})
    for step in (5, 9):
        state = RunState(step=step, identity=identity, sessions={}, groups={}, indexes=[1])
        commit(run.checkpoints, Checkpoint(to_blob(build_policy(settings.policy, step)), {}, state))
    return run
