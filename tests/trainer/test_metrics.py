import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from common.features import Featurizer
from common.metrics import render
from common.policy import build_policy
from common.policy.peak import peak
from deploy.local.statistics import Tail
from tests.common.test_messages import group
from tests.trainer.test_checkpoint import IDENTITY
from tests.trainer.tiny_run import tiny_index, tiny_settings
from trainer.duration_reward import PlayTimes
from trainer.frontier import Frontier
from trainer.groups import Judgement
from trainer.journal import SettledGroup
from trainer.metrics import waiting_for
from trainer.resume import Run
from trainer.session_filter import SessionFilter
from trainer.shares import Share, merged
from trainer.staleness import Staleness
from trainer.statistics import Statistics
from trainer.step import StepMetrics, TrainingStep

FLOPS = 3 * 10**8


def value(name: str) -> float:
    return next(
        (float(line.rpartition(" ")[2]) for line in render().decode().splitlines() if line.startswith(name + " ")), 0
    )


def fresh_run() -> Run:
    settings = tiny_settings()
    training = TrainingStep(build_policy(settings.policy), Featurizer(settings.policy, tiny_index()), settings)
    return Run(IDENTITY, training, SessionFilter(settings.filter), PlayTimes(10), Frontier(), Staleness(2, [0]))


def test_counters_show_what_happened_since_the_start_and_lines_the_totals(tmp_path: Path) -> None:
    run = fresh_run()
    run.counters = Counter({"sessions.consumed": 100})
    consumed, stale = value("onerec_trainer_sessions_consumed_total"), value('onerec_trainer_groups_total{reason="stale"}')
    judgement = Judgement(SettledGroup(record=(0, 4), request=(1, 7), outcome="stale"), group=group())
    before = [
        value(f"onerec_trainer_group_{name}") for name in ("legal_ratio_sum", "legal_ratio_count", "reward_number_sum")
    ]
    with Statistics(tmp_path / "stats.jsonl", run) as statistics:
        assert 'onerec_trainer_groups_total{reason="index_gone"}' in render().decode()
        assert 'onerec_trainer_dead_letters_total{topic="p.sessions"}' in render().decode()
        run.step = 1
        run.counters.update({"sessions.consumed": 4, "groups.stale": 1})
        statistics.step(
            run, StepMetrics(loss_per_level=[1.0, 2.0], max_violation=0.5, flops=FLOPS), [judgement], 0.1, {0: 9}
        )
    assert value("onerec_trainer_sessions_consumed_total") == consumed + 4
    assert value('onerec_trainer_groups_total{reason="stale"}') == stale + 1
    assert value('onerec_trainer_next_token_loss_nats{level="2"}') == 2.0
    assert value('onerec_trainer_stream_lag_records{partition="0",topic="sessions"}') == 9
    assert value("onerec_trainer_load_violation_ratio") == 0.5
    after = [value(f"onerec_trainer_group_{name}") for name in ("legal_ratio_sum", "legal_ratio_count", "reward_number_sum")]
    assert [new - old for old, new in zip(before, after, strict=True)] == [0.5, 1, 0.5]
    rate = peak(torch.device("cpu")).rate
    assert value("onerec_trainer_model_flops_utilisation_ratio") == pytest.approx(FLOPS / (0.1 * rate))
    assert value("onerec_trainer_step_flops") == FLOPS
    assert any(line.startswith("onerec_trainer_peak_rate_flops{source=") for line in render().decode().splitlines())
    line, step = (json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines())
    assert (line["kind"], line["outcome"], line["record"], line["legal_share"]) == ("group", "stale", [0, 4], 0.5)
    assert step["max_violation"] == 0.5
    assert step["utilisation"] == pytest.approx(step["flops"] / (step["seconds"] * step["peak_flops"]))
    assert step["peak_source"].startswith("measured")
    assert (step["counters"]["sessions.consumed"], step["loss_per_level"]) == (104, [1.0, 2.0])


def test_a_line_that_was_cut_by_a_crash_or_a_full_disk_does_not_spoil_the_next(tmp_path: Path) -> None:
    path, run = tmp_path / "stats.jsonl", fresh_run()
    for step in (1, 2):
        run.step = step
        with Statistics(path, run) as statistics:
            statistics.step(run, StepMetrics(), [], 0.1, {})
        with path.open("a") as file:
            file.write('{"kind": "group", "ste')
    assert [line["step"] for line in Tail(path).lines()] == [1, 2]


def test_waiting_is_counted_by_what_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'onerec_trainer_waited_seconds_total{reason="sessions"}'
    before, clock = value(name), iter([10.0, 12.5])
    monkeypatch.setattr("trainer.metrics.time.perf_counter", lambda: next(clock))
    with waiting_for("sessions"):
        pass
    assert value(name) == before + 2.5


def test_shares_of_a_step_are_summed_or_weighed() -> None:
    one = StepMetrics(
        targets=3,
        loss_per_level=[1.0, 2.0],
        preference_loss=1.0,
        sft_grad_norm=5.0,
        mean_ratio=1.0,
        max_violation=0.5,
        flops=7,
    )
    other = StepMetrics(targets=1, loss_per_level=[3.0, 2.0], preference_loss=4.0, rl_grad_norm=2.0, mean_ratio=2.0, flops=2)
    idle = StepMetrics()
    shares = [
        Share(one, {"targets": 3}, 2, 1, [{"step": 1}]),
        Share(other, {"targets": 1, "groups.trained": 2}, 1, 2, [{"step": 1}]),
        Share(idle, {}, 0, 0, []),
    ]
    whole = merged([Share.read(share.to_bytes()) for share in shares])
    assert (whole.outstanding, whole.trained, len(whole.groups)) == (3, 3, 2)
    assert whole.counters == {"targets": 4, "groups.trained": 2}
    assert whole.metrics == StepMetrics(
        targets=4,
        loss_per_level=[1.5, 2.0],
        preference_loss=3.0,
        sft_grad_norm=5.0,
        rl_grad_norm=2.0,
        mean_ratio=5 / 3,
        max_violation=0.5,
        flops=9,
    )
    assert merged([Share(idle, {}, 0, 0, []), Share(idle, {}, 0, 0, [])]).metrics == idle
    assert merged(shares[:1]) is shares[0]
