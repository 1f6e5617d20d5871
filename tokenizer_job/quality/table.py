"""The quality report as a person reads it in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.table import Table

from tokenizer_job.quality.report import TokenizerReport


def report_table(report: TokenizerReport) -> Table:
    """One column per level, and what concerns whole SIDs below."""
    table = Table(title=f"Semantic IDs of {report.items:,} items", title_justify="left", caption_justify="left")
    table.add_column("level", no_wrap=True)
    for level in range(1, report.levels + 1):
        table.add_column(str(level), justify="right")

    def row(name: str, values: list[float], form: Callable[[float], str]) -> None:
        table.add_row(name, *map(form, values), *["—"] * (report.levels - len(values)))

    row(f"codes in use, of {report.codes:,}", report.utilisation, "{:.1%}".format)
    row(f"entropy, nats (≤ {math.log(report.codes):.3f})", report.entropy_nats, "{:.3f}".format)
    row("perplexity", report.perplexity, "{:,.1f}".format)
    row("Gini of usage", report.gini, "{:.3f}".format)
    row("MSE per dimension", report.reconstruction_mse, "{:.3e}".format)
    if report.prefixes is not None:
        row("prefix purity", report.prefixes.purity, "{:.1%}".format)
        row("… categories shuffled", report.prefixes.shuffled, "{:.1%}".format)
    table.caption = (
        f"{report.shared_share:.1%} of items share their ID, largest bucket {report.largest_bucket:,}, "
        f"collision rate {report.collision_rate:.1%}, {report.moved_share:.1%} of items moved"
    )
    return table
