"""Fits a QFormer so that items that behaviour pairs lie together and still tell their captions.

L = contrast_weight * InfoNCE over item pairs + caption_weight * mean-token caption loss (OneRec technical report, section
"Tokenizer"). What is random in a step is a function of seed and step, so that a resumed fit repeats an uninterrupted one
bit for bit on one machine, torch build and thread count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor, nn
from torch.nn import functional

from common.content import Content
from common.settings import AlignmentSettings
from tokenizer_job.alignment import checkpoint
from tokenizer_job.alignment.aligner import Aligner
from tokenizer_job.alignment.captions import PADDING, CaptionDecoder
from tokenizer_job.alignment.losses import false_negatives, info_nce
from tokenizer_job.alignment.pairs import Pairs
from tokenizer_job.alignment.qformer import QFormer

__all__ = ["Aligner", "AlignmentFit", "fit_alignment"]
Ints = npt.NDArray[np.int64]
CHECKPOINT_STEPS = 100
PROGRESS_S = 5.0
WARMUP, LAST_RATE = 0.05, 0.1
CLIP_NORM = 1.0
EVALUATION_BATCH = 256


def fit_alignment(
    content: Content,
    captions: Sequence[str],
    pairs: Pairs,
    settings: AlignmentSettings,
    seed: int,
    on_progress: Callable[[str], None] = lambda _: None,
    resume: Path | None = None,
) -> Aligner:
    """Train a QFormer that begins at the whitened content of the catalogue on the pairs and their items' captions.

    Args:
        content: of the whole catalogue; row k is item k of the pairs.
        captions: one text per item; items without one take no part in the caption loss.
        pairs: what is alike; pairs with an item without content are left out.
        settings: of model and training.
        seed: of initial weights and batches.
        on_progress: called with one line of text every few seconds.
        resume: folder for a checkpoint every `CHECKPOINT_STEPS` steps, from which an interrupted fit goes on.

    Raises:
        ValueError: there are not as many captions as items, no pair to train on, or ``resume`` holds another fit.
    """
    return AlignmentFit(content, captions, pairs, settings, seed).run(on_progress, resume)


@dataclass(frozen=True)
class StepLosses:
    """A step's two losses, nats; 0 where a loss is not trained."""

    contrast: float
    captions: float


class AlignmentFit:
    """A fit in progress: the model beside its data. See `fit_alignment`, which is all most callers need."""

    def __init__(
        self, content: Content, captions: Sequence[str], pairs: Pairs, settings: AlignmentSettings, seed: int
    ) -> None:
        if len(captions) != len(content):
            raise ValueError(
                f"there must be one caption (empty or not) per item, got {len(captions)} for {len(content)} items"
            )
        self.content, self.settings, self.seed = content, settings, seed
        self.pairs = pairs.among(np.any(content.mask, 1))
        if not len(self.pairs):
            raise ValueError(f"alignment needs item pairs with content, got none of {len(pairs)} pairs")
        self.known = self.pairs.known(len(content))
        share = torch.from_numpy(self.pairs.share(len(content)))
        self.bias = settings.popularity_correction * share.clamp(min=1e-12).log()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.qformer = QFormer(settings, content.width)
            self.qformer.start_at(torch.from_numpy(content.tokens[content.mask]))
            told = settings.caption_weight > 0 and any(text.strip() for text in captions)
            self.decoder = CaptionDecoder(settings, captions) if told else None
        self.tokens = self.decoder.token_ids(captions) if self.decoder else torch.empty(len(content), 0, dtype=torch.long)
        self.model = nn.ModuleList([self.qformer, *([self.decoder] if self.decoder else [])])
        self.optimizer = _build_optimizer(self.qformer, self.decoder, settings)

    def run(self, on_progress: Callable[[str], None], resume: Path | None = None) -> Aligner:
        """Train from the checkpoint in ``resume``, if there is one, to the end."""
        identity = self._identity()
        done = checkpoint.restore(resume, self.model, self.optimizer, identity) if resume else 0
        meter = _Meter(done, self.settings, on_progress)
        self.model.train()
        for step in range(done + 1, self.settings.steps + 1):
            meter.tell(step, self.step(step))
            if resume and (step % CHECKPOINT_STEPS == 0 or step == self.settings.steps):
                checkpoint.save(resume, self.model, self.optimizer, step, identity)
        return Aligner(self.qformer, self.settings, self.content.width)

    def step(self, number: int) -> StepLosses:
        """Train on the batch of one step (counted from 1)."""
        rng = np.random.default_rng([self.seed, number])
        batch = self.pairs.draw(rng, self.settings.batch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * _schedule(number, self.settings.steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            contrast, captions = self._losses(batch, rng)
        self.optimizer.zero_grad()
        (self.settings.contrast_weight * contrast + self.settings.caption_weight * captions).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        return StepLosses(contrast.item(), captions.item())

    def _losses(self, batch: Ints, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        items = np.unique(batch)
        told = items[(self.tokens[items] != PADDING).any(1).numpy()] if self.decoder else items[:0]
        told = np.sort(rng.permutation(told)[: self.settings.caption_batch])
        items = items if self.settings.contrast_weight else told
        some = self.content.take(items)
        hidden = self.qformer(torch.from_numpy(some.tokens), torch.from_numpy(some.mask))
        contrast = captions = torch.zeros(())
        if self.settings.contrast_weight:
            contrast = self._contrast(functional.normalize(hidden.flatten(1)), np.searchsorted(items, batch), batch)
        if self.decoder and len(told):
            captions = self.decoder(hidden[np.searchsorted(items, told)], self.tokens[told])
        return contrast, captions

    def _contrast(self, vectors: Tensor, at: Ints, batch: Ints) -> Tensor:
        """InfoNCE of the batch (B, 2), whose items' unit vectors lie at rows ``at`` (B, 2)."""
        left, right = vectors[at[:, 0]], vectors[at[:, 1]]
        tau = self.settings.temperature
        loss = info_nce(left, right, tau, false_negatives(batch[:, 0], batch[:, 1], self.known), self.bias[batch[:, 1]])
        if self.settings.symmetric:
            excluded = false_negatives(batch[:, 1], batch[:, 0], self.known)
            back = info_nce(right, left, tau, excluded, self.bias[batch[:, 0]])
            loss = (loss + back) / 2
        return loss

    @torch.inference_mode()
    def caption_loss(self, content: Content, captions: Sequence[str]) -> float:
        """Mean negative log-likelihood (nats) per token of the captions that are not empty, without training.

        Raises:
            ValueError: no caption was trained on, or none is given.
        """
        if self.decoder is None:
            raise ValueError("caption loss of a fit without captions")
        self.model.eval()
        tokens = self.decoder.token_ids(captions)
        rows = np.flatnonzero((tokens != PADDING).any(1).numpy())
        if not len(rows):
            raise ValueError("caption loss needs a caption that is not empty")
        total = 0.0
        for chunk in np.array_split(rows, -(-len(rows) // EVALUATION_BATCH)):
            some = content.take(chunk)
            hidden = self.qformer(torch.from_numpy(some.tokens), torch.from_numpy(some.mask))
            total += self.decoder(hidden, tokens[chunk]).item() * int((tokens[chunk] != PADDING).sum())
        return total / int((tokens[rows] != PADDING).sum())

    def _identity(self) -> str:
        """A digest of everything that the fit depends on."""
        digest = xxhash.xxh3_128(f"{self.seed} {self.settings.model_dump_json()}".encode())
        for array in (self.content.tokens, self.content.mask, self.pairs.user_to_item, self.pairs.item_to_item):
            digest.update(np.ascontiguousarray(array).data)
        digest.update(self.tokens.numpy().data)
        return digest.hexdigest()


class _Meter:
    """Says every few seconds how far the fit is, how fast, and how long it will go on."""

    def __init__(self, done: int, settings: AlignmentSettings, on_progress: Callable[[str], None]) -> None:
        self.first, self.settings, self.on_progress = done, settings, on_progress
        self.began = self.told = time.monotonic()

    def tell(self, step: int, losses: StepLosses) -> None:
        now = time.monotonic()
        if now - self.told < PROGRESS_S and step < self.settings.steps:
            return
        self.told = now
        seconds = (now - self.began) / (step - self.first)
        self.on_progress(
            f"alignment step {step}/{self.settings.steps}: contrast {losses.contrast:.3f}, captions {losses.captions:.3f}, "
            f"{self.settings.batch / seconds:,.0f} pairs/s, {seconds * (self.settings.steps - step):,.0f} s left"
        )


def _build_optimizer(qformer: QFormer, decoder: CaptionDecoder | None, settings: AlignmentSettings) -> torch.optim.AdamW:
    """AdamW, each part at its own rate (``base_lr`` is what the schedule scales); weight decay on matrices only."""
    groups: list[dict[str, Any]] = []
    for part, rate in ((qformer, settings.learning_rate), (decoder, settings.caption_learning_rate)):
        trained = [parameter for parameter in part.parameters() if parameter.requires_grad] if part else []
        for decay, chosen in ((settings.weight_decay, lambda p: p.ndim > 1), (0.0, lambda p: p.ndim == 1)):
            groups.append({"params": list(filter(chosen, trained)), "base_lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first steps, then a cosine down to a tenth."""
    warmup = max(1, round(WARMUP * steps))
    if step <= warmup:
        return step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))
