"""The catalogue of metrics as Markdown: a section a worker."""

from __future__ import annotations

import common.metrics  # noqa: F401 - declares them
from common.metric_catalogue import CATALOGUE, Entry

WORKERS = {
    "trainer": ("Trainer", "`python -m trainer`, every rank"),
    "rollout": ("Rollout fleet", "`python -m rollout`"),
    "reward": ("Reward service", "`python -m reward_service`; `…_learner_…` by `python -m reward_service.online`"),
    "recommend": ("Recommend endpoint", "`python -m rollout.recommend`"),
    "tokenizer": ("Tokenizer job", "`python -m tokenizer_job`"),
}
TABLE = "| metric | kind | unit | labels | what it is |\n| --- | --- | --- | --- | --- |\n"


def metrics_block() -> str:
    """Every metric, a table a worker."""
    return "\n\n".join(map(_section, WORKERS))


def _section(worker: str) -> str:
    title, process = WORKERS[worker]
    rows = [_row(entry) for entry in CATALOGUE.values() if entry.worker == worker]
    return f"## {title}\n\nBy {process}.\n\n{TABLE}" + "\n".join(rows)


def _row(entry: Entry) -> str:
    labels = ", ".join(f"`{label}`" for label in entry.labels)
    text = entry.help.replace("|", "\\|")
    return f"| `{entry.name}` | {entry.kind} | {entry.unit} | {labels} | {text} |"
