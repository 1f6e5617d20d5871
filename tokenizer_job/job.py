"""The tokenizer job: a session log's items -> vectors -> semantic IDs -> the first index snapshot.

Consumes: a session log (catalogue, content, initial histories, sessions of the training days).
Produces: ``tokenizer/`` (codebooks.safetensors, report.json) and ``index/000001/`` in the given folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from common.item_index import ItemIndex
from common.messages import Item
from common.session_log import SessionLog
from common.settings import Settings
from tokenizer_job.events import TrainingEvents
from tokenizer_job.item_vectors.collaborative import collaborative_vectors
from tokenizer_job.item_vectors.content import content_vectors
from tokenizer_job.item_vectors.join import join_vectors
from tokenizer_job.quality.report import assess
from tokenizer_job.quantizers.rq_kmeans import RqKmeans, fit_rq_kmeans, spread_last_level

FIRST_VERSION = 1
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]


def build_index(
    log: SessionLog, settings: Settings, folder: Path, train_days: int, on_progress: Callable[[str], None] = lambda _: None
) -> ItemIndex:
    """Tokenise the catalogue of a log and write the first index snapshot under ``folder``.

    Of the users' behaviour only initial histories and the sessions of days 0..train_days-1 are read. A function of log
    and settings: the same log, settings and thread count give the same index.

    Raises:
        ValueError: the log is damaged, has fewer distinct items than codes, or the folder holds a snapshot already.
    """
    items = log.items()
    if not items:
        raise ValueError(f"the log {log.path} has no items to tokenise")
    on_progress(f"reading the behaviour of {train_days} training days")
    events = TrainingEvents.read(log, np.array([item.item_id for item in items], np.int64), train_days)
    on_progress(f"computing vectors of {len(items):,} items from {len(events.row):,} events")
    vectors = item_vectors(items, log.content(), events, settings)
    on_progress(f"fitting {settings.policy.levels} x {settings.policy.codes} codes")
    model, sids = tokenise(vectors, settings)
    version = _save_tokenizer(model, vectors, sids, folder / "tokenizer", on_progress)
    index = ItemIndex.build(
        FIRST_VERSION,
        version,
        settings.policy.codes,
        item_ids=[item.item_id for item in items],
        sids=sids,
        author=[item.author_id for item in items],
        tags=_padded([item.tags for item in items]),
        music=[item.music_id for item in items],
        duration_ms=[item.duration_ms for item in items],
        popularity=events.popularity(len(items)),
        vectors=vectors,
    )
    index.save(folder / "index" / f"{FIRST_VERSION:06d}")
    return index


def item_vectors(items: list[Item], given: Floats | None, events: TrainingEvents, settings: Settings) -> Floats:
    """The vectors (N, d) to tokenise, from behaviour and content."""
    tokenizer = settings.tokenizer
    collaborative = collaborative_vectors(
        events.user, events.row, len(items), tokenizer.collaborative_width, tokenizer.window
    )
    content = content_vectors(items, given, tokenizer.content_width)
    return join_vectors(collaborative, content, tokenizer.collaborative_weight, tokenizer.content_weight)


def tokenise(vectors: Floats, settings: Settings) -> tuple[RqKmeans, Codes]:
    """Codebooks fitted on the vectors, and the SIDs (N, K) they give them."""
    policy, tokenizer = settings.policy, settings.tokenizer
    model = fit_rq_kmeans(vectors, policy.codes, policy.levels, tokenizer.iterations, settings.seed)
    sids = model.encode(vectors)
    return model, spread_last_level(model, vectors, sids) if tokenizer.dedup == "next_best" else sids


def _save_tokenizer(model: RqKmeans, vectors: Floats, sids: Codes, folder: Path, on_progress: Callable[[str], None]) -> str:
    """Write codebooks and report; the tokenizer's version is the fingerprint of its codebooks."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "codebooks.safetensors")
    report = assess(model, vectors, sids)
    (folder / "report.json").write_text(report.model_dump_json(indent=2))
    on_progress(f"{report.shared_share:.1%} of items share a semantic ID, largest bucket {report.largest_bucket}")
    return xxhash.xxh3_64_hexdigest(model.codebooks.tobytes())


def _padded(tags: list[list[int]]) -> npt.NDArray[np.int64]:
    """One row of tags per item, padded with -1 to the longest (at least one column)."""
    out = np.full((len(tags), max(1, *map(len, tags))), -1, np.int64)
    for row, values in zip(out, tags, strict=True):
        row[: len(values)] = values
    return out
