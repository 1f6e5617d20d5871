"""The tokenizer job: a session log's items -> vectors -> semantic IDs -> the first index snapshot.

Consumes: a session log (catalogue, content, initial histories, sessions of the training days).
Produces: ``tokenizer/`` (the frozen tokenizer, report.json, report.html) and ``index/000001/`` in the given folder.
A job that takes long keeps what it has in ``tokenizer/`` and goes on from there when it is started again.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.content import Content
from common.item_index import ItemIndex
from common.messages import Item
from common.session_log import DAY_MS, SessionLog
from common.settings import Settings
from tokenizer_job.columns import item_columns
from tokenizer_job.events import TrainingEvents
from tokenizer_job.item_vectors.encoder import ItemEncoder, fit_aligned, fit_joined
from tokenizer_job.quality.page import write_page
from tokenizer_job.quality.prefixes import item_categories
from tokenizer_job.quality.report import TokenizerReport, assess
from tokenizer_job.quantizers import Quantizer, fit_quantizer
from tokenizer_job.quantizers.dedup import append_level, next_best
from tokenizer_job.tokenizer import Tokenizer, TokenizerCard, residual_norms

FIRST_VERSION = 1
REFERENCE_ITEMS = 5000
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What the job made."""

    index: ItemIndex
    tokenizer: Tokenizer
    report: TokenizerReport


def build_index(
    log: SessionLog,
    settings: Settings,
    folder: Path,
    train_days: int | None,
    on_progress: Say = lambda _: None,
    held_out: int = 0,
) -> Result:
    """Tokenise the catalogue of a log and write tokenizer and first index snapshot under ``folder``.

    Of the users' behaviour only initial histories and the sessions of days 0..train_days-1 are read (None: of all days),
    without each user's last ``held_out`` events. Items published after those days are left to the online job. A function
    of log and settings: the same log, settings and thread count give the same index.

    Raises:
        ValueError: the log is damaged, has fewer distinct items than codes, or the folder holds a snapshot already.
    """
    snapshot = folder / "index" / f"{FIRST_VERSION:06d}"
    if snapshot.exists():
        raise ValueError(f"{folder} holds an index already: choose another folder")
    items, content = catalogue(log, train_days)
    on_progress(f"reading the behaviour of {'all' if train_days is None else train_days} training days")
    ids = np.array([item.item_id for item in items], np.int64)
    events = TrainingEvents.read(log, ids, train_days, held_out)
    state = folder / "tokenizer" / "alignment"
    encoder, vectors = _fit_encoder(items, content, events, settings, state, on_progress)
    quantizer, sids = tokenise(vectors, settings, on_progress, folder / "tokenizer" / "levels.safetensors")
    card = TokenizerCard(
        version=quantizer.fingerprint(),
        method=quantizer.method,
        codes=quantizer.codes,
        levels=quantizer.levels,
        dedup=settings.tokenizer.dedup,
        items=len(items),
        residual_norm=reference_norm(encoder, quantizer, items, content, settings.seed),
    )
    tokenizer = Tokenizer(encoder, quantizer, card)
    tokenizer.save(folder / "tokenizer")
    report = assess(quantizer, vectors, sids, item_categories(items))
    (folder / "tokenizer" / "report.json").write_text(report.model_dump_json(indent=2))
    write_page(folder / "tokenizer" / "report.html", report, items, sids, quantizer, vectors)
    on_progress(f"{report.shared_share:.1%} of items share a semantic ID, largest bucket {report.largest_bucket}")
    index = ItemIndex.build(
        FIRST_VERSION,
        card.version,
        settings.policy.codes,
        **item_columns(items),
        sids=sids,
        popularity=events.popularity(len(items)),
        vectors=vectors,
    )
    index.save(snapshot)
    shutil.rmtree(state, ignore_errors=True)
    return Result(index, tokenizer, report)


def catalogue(log: SessionLog, train_days: int | None) -> tuple[list[Item], Content | None]:
    """The items that were there when the training days ended, and their content.

    Raises:
        ValueError: there are none, or an id occurs twice (named).
    """
    if train_days is not None and train_days < 0:
        raise ValueError(f"train_days must be at least 0, got {train_days}")
    items, content = log.items(), log.content()
    if len(items) != len({item.item_id for item in items}):
        [(twice, times)] = Counter(item.item_id for item in items).most_common(1)
        raise ValueError(f"the log {log.path} has item {twice} {times} times: ids must be distinct")
    if train_days is not None:
        end_ms = log.manifest.day0_ms + train_days * DAY_MS
        rows = [row for row, item in enumerate(items) if item.publish_ms < end_ms]
        items = [items[row] for row in rows]
        content = content and content.take(np.array(rows, np.int64))
    if not items:
        raise ValueError(f"the log {log.path} has no items to tokenise")
    return items, content


def tokenise(
    vectors: Floats, settings: Settings, on_progress: Say = lambda _: None, resume: Path | None = None
) -> tuple[Quantizer, Codes]:
    """A quantizer fitted on the vectors, and their SIDs (N, K) after the dedup of the settings."""
    policy, tokenizer = settings.policy, settings.tokenizer
    appended = tokenizer.dedup == "append_level"
    fitted = fit_quantizer(vectors, tokenizer, policy.codes, policy.levels - appended, settings.seed, on_progress, resume)
    if appended:
        return fitted.quantizer, append_level(fitted.sids, policy.codes)
    if tokenizer.dedup == "next_best":
        return fitted.quantizer, next_best(fitted.quantizer, vectors, fitted.sids)
    return fitted.quantizer, fitted.sids


def reference_norm(
    encoder: ItemEncoder, quantizer: Quantizer, items: list[Item], content: Content | None, seed: int
) -> float:
    """Mean residual norm of the catalogue (of `REFERENCE_ITEMS` at most) as if its items were new.

    Later items are encoded without behaviour, which alone makes for other residuals: drift compares like with like.
    """
    rows = np.random.default_rng(seed).permutation(len(items))[:REFERENCE_ITEMS]
    vectors = encoder.encode([items[row] for row in rows], content and content.take(rows))
    return float(residual_norms(quantizer, vectors, quantizer.encode(vectors)).mean())


def _fit_encoder(
    items: list[Item], content: Content | None, events: TrainingEvents, settings: Settings, state: Path, on_progress: Say
) -> tuple[ItemEncoder, Floats]:
    on_progress(f"computing vectors of {len(items):,} items from {len(events.row):,} events")
    if settings.tokenizer.vectors == "joined":
        return fit_joined(items, content, events, settings.tokenizer)
    return fit_aligned(items, content, events, settings.tokenizer, settings.seed, on_progress, state)
