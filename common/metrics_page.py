"""docs/metrics.md, made from the catalogue: ``python -m common.metrics_page > docs/metrics.md``."""

from __future__ import annotations

import sys

import common.metrics  # noqa: F401 - declares them
from common.metric_catalogue import CATALOGUE, Entry

WORKERS = {
    "trainer": ("Trainer", "`python -m trainer`, every rank"),
    "rollout": ("Rollout fleet", "`python -m rollout`"),
    "reward": ("Reward service", "`python -m reward_service`; `…_learner_…` by `python -m reward_service.online`"),
    "recommend": ("Recommend endpoint", "`python -m rollout.recommend`"),
    "tokenizer": ("Tokenizer job", "`python -m tokenizer_job`"),
}
HEAD = """# Metrics

Made from the catalogue in `common/metrics.py` by `python -m common.metrics_page > docs/metrics.md`; a test compares the two,
and checks that each metric is set somewhere.

Every worker serves its metrics in the Prometheus text format at `/metrics`; `ready/WORKER.json` in the run folder says
where. A name is `onerec_<worker>_<what>_<unit>`. Of a histogram Prometheus sees `NAME_bucket` (label `le`), `NAME_sum` and
`NAME_count`; of a summary `NAME_sum` and `NAME_count`, so that `rate(NAME_sum[5m]) / rate(NAME_count[5m])` is the mean of
the last five minutes. Counters begin at 0 with their process. Processes also show their memory, CPU time, open files and
start time (`process_…`).

Alerts on them are in [alerts.yaml](../deploy/prometheus/alerts.yaml), with a [runbook](runbooks.md) each; dashboards for
Grafana in `deploy/grafana/dashboards/`.
"""
TABLE = "| metric | kind | unit | labels | what it is |\n| --- | --- | --- | --- | --- |\n"


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(_section, WORKERS))


def _section(worker: str) -> str:
    title, process = WORKERS[worker]
    rows = "".join(_row(entry) for entry in CATALOGUE.values() if entry.worker == worker)
    return f"\n## {title}\n\nBy {process}.\n\n{TABLE}{rows}"


def _row(entry: Entry) -> str:
    labels = ", ".join(f"`{label}`" for label in entry.labels)
    text = entry.help.replace("|", "\\|")
    return f"| `{entry.name}` | {entry.kind} | {entry.unit} | {labels} | {text} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
