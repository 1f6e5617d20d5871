"""The alert rules read what is served, have a runbook each, and fire when they should (by Prometheus's own promtool)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promql import faults

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks.md"

BUCKETS = ("0.25", "0.5", "1.0", "+Inf")
MINUTES = 60
SCRAPED = {f'up{{job="{worker}"}}': "1+0x60" for worker in ("trainer", "rollout", "recommend", "tokenizer")}
"""Workers that answer; the learner is the one that a case is about."""
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "TrainerNotStepping": (
        {"onerec_trainer_step_seconds_count": "5+0x60", 'onerec_trainer_stream_lag_records{topic="sessions"}': "9+0x60"},
        {"onerec_trainer_step_seconds_count": "5+0x60", 'onerec_trainer_stream_lag_records{topic="sessions"}': "0+0x60"},
    ),
    "LossNotFinite": (
        {'onerec_trainer_next_token_loss_nats{level="1"}': "NaN " * 60},
        {'onerec_trainer_next_token_loss_nats{level="1"}': "3+0x60"},
    ),
    "CheckpointTooOld": (
        {"onerec_trainer_checkpoint_timestamp_seconds": "-900+0x60", "onerec_trainer_step_seconds_count": "0+10x60"},
        {"onerec_trainer_checkpoint_timestamp_seconds": "-900+0x60", "onerec_trainer_step_seconds_count": "5+0x60"},
    ),
    "CheckpointsFailing": (
        {"onerec_trainer_checkpoints_failed_total": "0x50 1x10"},
        {"onerec_trainer_checkpoints_failed_total": "1+0x60"},
    ),
    "DiskFillingUp": (
        {"onerec_trainer_disk_free_bytes": "900+0x60", "onerec_trainer_checkpoint_bytes": "100+0x60"},
        {"onerec_trainer_disk_free_bytes": "1100+0x60", "onerec_trainer_checkpoint_bytes": "100+0x60"},
    ),
    "StalenessOverBound": (
        {'onerec_trainer_groups_total{reason="stale"}': "0+1x60", 'onerec_trainer_groups_total{reason="trained"}': "0+9x60"},
        {
            'onerec_trainer_groups_total{reason="stale"}': "0+1x60",
            'onerec_trainer_groups_total{reason="trained"}': "0+99x60",
        },
    ),
    "RatioOffOne": ({"onerec_trainer_parity_error_ratio": "0.002+0x60"}, {"onerec_trainer_parity_error_ratio": "1e-6+0x60"}),
    "LegalityFalling": (
        {"onerec_trainer_group_legal_ratio_sum": "0+9.5x20 196+6x40", "onerec_trainer_group_legal_ratio_count": "0+10x60"},
        {"onerec_trainer_group_legal_ratio_sum": "0+4.5x60", "onerec_trainer_group_legal_ratio_count": "0+10x60"},
    ),
    "StreamLagGrowing": (
        {'onerec_trainer_stream_lag_records{partition="0"}': "900+60x60"},
        {'onerec_trainer_stream_lag_records{partition="0"}': "5000-60x60"},
    ),
    "FollowerLagGrowing": (
        {'onerec_reward_learner_lag_records{partition="0"}': "900+60x60"},
        {'onerec_reward_learner_lag_records{partition="0"}': "9+1x60"},
    ),
    "DeadLettersRising": (
        {"onerec_tokenizer_dead_letters_total": "0x50 2x10"},
        {"onerec_tokenizer_dead_letters_total": "2+0x60"},
    ),
    "ActorsNotReady": (
        {'onerec_rollout_actors_number{state="starting"}': "1+0x60"},
        {'onerec_rollout_actors_number{state="busy"}': "1+0x60"},
    ),
    "ActorsRestarting": (
        {"onerec_rollout_actor_restarts_total": "0+1x60"},
        {"onerec_rollout_actor_restarts_total": "0+0.1x60"},
    ),
    "ActorsBehind": (
        {
            "onerec_trainer_parameter_version_number": "3000+0x60",
            'onerec_rollout_parameter_version_number{actor="rollout-0"}': "3000+0x60",
            'onerec_rollout_parameter_version_number{actor="rollout-1"}': "2000+0x60",
        },
        {
            "onerec_trainer_parameter_version_number": "3000+0x60",
            'onerec_rollout_parameter_version_number{actor="rollout-0"}': "3000+0x60",
        },
    ),
    "VersionsRefused": (
        {'onerec_rollout_refused_versions_total{reason="run"}': "0x50 1x10"},
        {'onerec_rollout_refused_versions_total{reason="run"}': "1+0x60"},
    ),
    "RewardsMissing": (
        {
            'onerec_rollout_groups_produced_total{outcome="failure"}': "0+2x60",
            'onerec_rollout_groups_produced_total{outcome="ok"}': "0+8x60",
        },
        {
            'onerec_rollout_groups_produced_total{outcome="failure"}': "0+1x60",
            'onerec_rollout_groups_produced_total{outcome="ok"}': "0+99x60",
        },
    ),
    "RewardServiceDown": ({'up{job="reward"}': "0+0x60"}, {'up{job="reward"}': "1+0x60", 'up{job="trainer"}': "0+0x60"}),
    "RewardServiceErrors": (
        {'onerec_reward_requests_total{code="503"}': "0+1x60", 'onerec_reward_requests_total{code="200"}': "0+9x60"},
        {'onerec_reward_requests_total{code="422"}': "0+1x60", 'onerec_reward_requests_total{code="200"}': "0+9x60"},
    ),
    "PreferenceModelUseless": (
        {'onerec_reward_learner_auc_ratio{objective="ltr"}': "0.45+0x60"},
        {'onerec_reward_learner_auc_ratio{objective="ltr"}': "0.7+0x60"},
    ),
    "RecommendSlow": (
        {
            f'onerec_recommend_request_seconds_bucket{{le="{le}"}}': f"0+{n}x60"
            for le, n in zip(BUCKETS, (90, 95, 99, 100), strict=True)
        },
        {
            f'onerec_recommend_request_seconds_bucket{{le="{le}"}}': f"0+{n}x60"
            for le, n in zip(BUCKETS, (99, 100, 100, 100), strict=True)
        },
    ),
    "DegradedShareHigh": (
        {
            'onerec_recommend_lists_total{arm="all",source="cached"}': "0+3x60",
            'onerec_recommend_lists_total{arm="all",source="generated"}': "0+7x60",
        },
        {
            'onerec_recommend_lists_total{arm="all",source="cached"}': "0+1x60",
            'onerec_recommend_lists_total{arm="all",source="generated"}': "0+9x60",
        },
    ),
    "RecommendErrors": (
        {'onerec_recommend_requests_total{code="500"}': "0+1x60", 'onerec_recommend_requests_total{code="200"}': "0+9x60"},
        {'onerec_recommend_requests_total{code="500"}': "0+0x60", 'onerec_recommend_requests_total{code="200"}': "0+9x60"},
    ),
    "WorkerDown": (
        SCRAPED | {'up{job="onerec/learner"}': "0+0x60"},
        SCRAPED | {'up{job="onerec/learner"}': "1+0x60", 'up{job="node"}': "0+0x60"},
    ),
    "TokenizerDrift": ({"onerec_tokenizer_drift_alarm_number": "1+0x60"}, {"onerec_tokenizer_drift_alarm_number": "0+0x60"}),
}
"""For every alert, series (by the minute) under which it must fire within an hour, and others under which it must not."""


ABSENT: dict[str, dict[str, str]] = {
    "RewardServiceDown": {'up{job="trainer"}': "1+0x60"},
    "WorkerDown": SCRAPED | {'up{job="reward"}': "1+0x60"},
}
"""Series of what is scraped while one part has no target at all: the alert must fire, too."""


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def sections() -> dict[str, str]:
    """The runbooks' sections by their headings."""
    parts = re.split(r"^## (.+)$", RUNBOOKS.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_rule_reads_what_is_served_and_says_what_it_means(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"


def test_every_alert_has_its_runbook_and_no_other_is_there() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    assert set(sections()) == set(names)
    for name, text in sections().items():
        assert "**Means.**" in text, name
        assert "**Look at.**" in text, name
        assert "**Do.**" in text, name


def test_faults_are_found() -> None:
    assert "nobody serves onerec_trainer_loss" in faults("sum(rate(onerec_trainer_loss[5m]))")[0]
    assert "has no color" in faults('onerec_trainer_groups_total{color="red"}')[0]
    assert "nothing has label color" in faults("sum by (color) (onerec_trainer_step_number)")[0]
    assert faults("sum(rate(")


def test_every_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    assert set(CASES) == {rule["alert"] for rule in rules()}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus): the rules are not evaluated")
    tests = [
        _test(alert, case, fires) for alert, cases in CASES.items() for case, fires in zip(cases, (True, False), strict=True)
    ]
    tests += [_test(alert, case, fires=True) for alert, case in ABSENT.items()]
    file = tmp_path / "tests.json"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(alert: str, case: dict[str, str], fires: bool) -> dict[str, Any]:
    return {
        "name": f"{alert} fires: {fires}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                "eval_time": f"{MINUTES - 5}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }
