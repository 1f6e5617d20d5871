"""The quality report as one HTML file that needs nothing beside it: figures, plots, sample items per prefix."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.messages import Item
from tokenizer_job.quality import plots
from tokenizer_job.quality.report import TokenizerReport
from tokenizer_job.quality.samples import sample_prefixes
from tokenizer_job.quantizers import Quantizer

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


def write_page(
    path: Path, report: TokenizerReport, items: list[Item], sids: Codes, quantizer: Quantizer, vectors: Floats
) -> None:
    """Write the page of SIDs (N, K) that a quantizer gave to items with vectors (N, d).

    Titles and categories come from the catalogue and are escaped. The same input gives the same bytes.
    """
    assert len(items) == len(sids) == len(vectors), "one item, SID and vector per row"
    # autoescape: titles are text that strangers wrote
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    drawn = {
        "usage": plots.usage(report, sids),
        "reconstruction": plots.reconstruction(report),
        "buckets": plots.buckets(report),
        "purity": plots.purity(report),
    }
    page = environment.get_template("page.html").render(
        report=report,
        method=quantizer.method,
        version=quantizer.fingerprint(),
        most_nats=math.log(report.codes),
        plots={name: Markup(svg) for name, svg in drawn.items()},  # noqa: S704 - drawn above, from numbers only
        prefixes=sample_prefixes(quantizer, vectors, sids, items),
    )
    path.write_text(page, encoding="utf-8")
