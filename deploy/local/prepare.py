"""What a run needs before it can stream, as steps that each leave files in the run folder and are done once.

``python -m deploy.local.prepare STEP --run-folder RUN [--threads N]``; `onerec up` runs the steps as child processes, so
that it stays light and can be interrupted. Progress goes to stdout, one line each time. Pre-training also runs on several
ranks, which share each batch: ``torchrun --nproc-per-node N -m deploy.local.prepare pretrain --run-folder RUN``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.local.run_folder import RunFolder, read_json, write_json

Say = Callable[[str], None]
SAY_EVERY_S = 2.0
LEADS = os.environ.get("RANK", "0") == "0"
"""Whether this process speaks and writes; under torchrun the others only help."""


def prepare_log(run: RunFolder, say: Say) -> dict[str, Any]:
    """Simulate, import, or link the session log into the run folder."""
    from deploy.data.sources import make_log

    make_log(run.source, run.settings, run.log, say)
    return {}


def tokenize(run: RunFolder, say: Say) -> dict[str, Any]:
    """Item vectors -> semantic IDs -> item index, from the warm window."""
    from common.session_log import SessionLog
    from tokenizer_job.job import build_index

    settings = run.settings
    index = build_index(SessionLog.open(run.log), settings, run.path, settings.split.warm_days, say).index
    return {"items": len(index), "version": index.version}


def reward(run: RunFolder, say: Say) -> dict[str, Any]:
    """Fit the preference model to the warm window."""
    from common.item_index import ItemIndex, latest_index
    from common.session_log import SessionLog
    from reward_service.training import train_preference_model

    settings = run.settings
    index = ItemIndex.load(latest_index(run.index))
    return train_preference_model(SessionLog.open(run.log), index, settings, run.path, settings.split.warm_days, say)


def pretrain(run: RunFolder, say: Say) -> dict[str, Any]:
    """Next-token pre-training on initial histories and the warm window; under torchrun, on all its ranks."""
    from common.compute import compute_with
    from common.item_index import ItemIndex, latest_index
    from common.policy import build_policy, to_blob
    from common.session_log import SessionLog
    from common.user_log import load_user_logs
    from trainer.parallel import joined_ranks
    from trainer.pretraining import pretrain as run_pretraining

    settings = run.settings
    index = ItemIndex.load(latest_index(run.index))
    users = load_user_logs(SessionLog.open(run.log), settings.split.warm_days)
    policy = build_policy(settings.policy, settings.seed)
    size = sum(p.numel() for p in policy.parameters())
    compute_with(threads=1)  # pre-training brings its own threads
    say(f"pre-training: {len(users):,} users, {size / 1e6:.1f} M parameters")
    tell = paced(say)

    def progress(phase: str, done: int, total: int, loss: float) -> None:
        tell(f"pre-training on {phase}: batch {done:,} of {total:,}, loss {loss:.3f}")

    with joined_ranks() as ranks:
        curves = run_pretraining(policy, users, index, settings, progress, ranks)
    if ranks.rank == 0:
        run.pretrained.parent.mkdir(exist_ok=True)
        temporary = run.pretrained.with_suffix(".tmp")
        temporary.write_bytes(to_blob(policy))
        temporary.replace(run.pretrained)
        write_json(run.curves, curves)
    return {"parameters": size, "batches": sum(map(len, curves.values()))}


def evaluate_before(run: RunFolder, say: Say) -> dict[str, Any]:
    """Judge the pre-trained policy."""
    from deploy.local.judging import judge_policy

    return judge_policy(run, "before", run.pretrained.read_bytes(), paced(say))


def evaluate_after(run: RunFolder, say: Say) -> dict[str, Any]:
    """Judge the policy of the last committed checkpoint."""
    from deploy.local.judging import judge_policy
    from trainer.checkpoint import committed, policy_blob

    versions = committed(run.checkpoints)
    if not versions:
        raise ValueError(f"{run.checkpoints} holds no committed checkpoint: nothing to evaluate")
    return judge_policy(run, "after", policy_blob(run.checkpoints, versions[-1]), paced(say)) | {"version": versions[-1]}


def evaluate_baselines(run: RunFolder, say: Say) -> dict[str, Any]:
    """Judge popularity and ItemKNN by the same protocol."""
    from deploy.local.judging import judge_baselines

    say("evaluating popularity and ItemKNN")
    return judge_baselines(run)


def compare(run: RunFolder, say: Say) -> dict[str, Any]:
    """Test the streamed policy against itself before and against the baselines, user by user."""
    from deploy.local.judging import compare_by_user

    say("paired user bootstrap")
    return compare_by_user(run)


STEPS: dict[str, Callable[[RunFolder, Say], dict[str, Any]]] = {
    "log": prepare_log,
    "tokenize": tokenize,
    "reward": reward,
    "pretrain": pretrain,
    "baselines": evaluate_baselines,
    "before": evaluate_before,
    "after": evaluate_after,
    "compare": compare,
}


def is_done(run: RunFolder, step: str) -> bool:
    """Whether a step has left its marker."""
    return (run.prepared / f"{step}.json").exists()


def run_step(run: RunFolder, step: str, say: Say) -> None:
    """Run one step unless it was done before; its marker, written last, holds what it returned and its duration."""
    if is_done(run, step):
        say(f"{step}: done before, after {read_json(run.prepared / f'{step}.json')['seconds']:.0f} s")
        return
    began = time.monotonic()
    result = STEPS[step](run, say)
    if not LEADS:
        return
    seconds, cpu = round(time.monotonic() - began, 2), round(time.process_time(), 2)
    write_json(run.prepared / f"{step}.json", {"seconds": seconds, "cpu_seconds": cpu, "result": result})
    say(f"{step}: done in {seconds:.0f} s")


def paced(say: Say, every_s: float = SAY_EVERY_S) -> Say:
    """As ``say``, but passes on at most one line every so many seconds."""
    last = 0.0

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            say(line)

    return tell


def _print(line: str) -> None:
    if LEADS:
        print(line, flush=True)  # noqa: T201


def main() -> int:
    """Run one step in this process; 1 and one line on stderr when its input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.prepare")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    if given.step not in {"log"}:
        from common.compute import compute_with

        compute_with(given.threads)
    try:
        run_step(RunFolder.open(given.run_folder), given.step, _print)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{given.step}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
