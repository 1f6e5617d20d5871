"""``python -m deploy.kubernetes.prometheus_rule``: the alerts of deploy/prometheus as the custom resource that Prometheus's
operator reads, written to base/alerts.yaml. A test sees to it that both say the same."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
ALERTS = HERE.parent / "prometheus" / "alerts.yaml"
RULE = HERE / "base" / "alerts.yaml"
HEAD = """\
# Made from deploy/prometheus/alerts.yaml by `python -m deploy.kubernetes.prometheus_rule`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: onerec
spec:
"""


def as_rule(alerts: str) -> str:
    """A file of Prometheus's rules as a PrometheusRule."""
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in alerts.splitlines(keepends=True))


if __name__ == "__main__":
    RULE.write_text(as_rule(ALERTS.read_text()))
