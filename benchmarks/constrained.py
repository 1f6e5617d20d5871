"""A search constrained to 1,000,000 items is no slower than a free one, and 10 times faster than a prefix function's.

512 beams over 3 x 8192 codes by an encoder-decoder of width 128, 2 + 2 layers, 405 context positions, random weights, one
user; whole searches from contexts. The rival is Hugging Face's generate on a T5 with the same weights, whose
``prefix_allowed_tokens_fn`` walks a trie of Python dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import BenchResult, Claim, Race, race
from benchmarks.rollout import Scale, World, overlap
from benchmarks.t5 import Allowed, as_t5, encoder_inputs, generate
from common.compute import compute_with
from common.features import Featurizer
from common.policy import build_policy
from common.policy.encoder_decoder import EncoderDecoder
from common.tensor_trie import TensorTrie
from rollout.beam_search import Beams, beam_search

Say = Callable[[str], None]
Node = dict[int, Any]
FASTER = 10.0
FREE_RUNS = 15
"""Searches of ours are short, and beside each other vary more than beside the rival."""


def run(data: Path, on_progress: Say) -> BenchResult:  # noqa: ARG001 - everything is synthetic
    """A million items with codes drawn evenly; takes about a minute."""
    return compare(Scale(items=1_000_000, topics=8192), on_progress)


@torch.no_grad()
def compare(scale: Scale, on_progress: Say) -> BenchResult:
    """The benchmark at any scale. Both sides compute as the processes of the loop do, but with all threads."""
    compute_with(torch.get_num_threads())
    on_progress(f"indexing {scale.items} items")
    world = World(scale)
    policy = build_policy(scale.policy, seed=0).eval()
    assert isinstance(policy, EncoderDecoder)
    featurizer = Featurizer(scale.policy, world.index)
    contexts = [world.context(scale.policy.positive_length + 20).context]
    inputs = encoder_inputs(policy, featurizer(contexts))
    trie, model, allowed = TensorTrie(world.index.trie), as_t5(policy, joint=False), allow(world.index.sids)

    def ours(legal: TensorTrie | None) -> Beams:
        return beam_search(policy, policy.encode(featurizer(contexts)), scale.width, legal)

    on_progress("searching")
    free = race(lambda: ours(trie), lambda: ours(None), FREE_RUNS)
    timed = race(lambda: ours(trie), lambda: generate(model, *inputs, scale.width, allowed), scale.runs)
    found, (codes, scores) = ours(trie), generate(model, *inputs, scale.width, allowed)
    real = torch.isfinite(found.scores)
    legal = {
        name: float(world.index.is_legal(x.numpy()).mean()) for name, x in (("ours", found.codes[real]), ("rival", codes[0]))
    }
    same = {"overlap": overlap(found.codes, codes), "score_error": float((found.scores - scores).abs().max())}
    return BenchResult(
        name="constrained",
        value=timed.value,
        unit="seconds",
        rival=timed.rival_value,
        ratio=timed.ratio,
        spread=timed.spread,
        details={
            "free": {"seconds": free.rival_value, "constrained": free.value, "ratio": free.ratio, "spread": free.spread},
            "seconds": {"ours": timed.ours, "rival": timed.rival},
            "claims": claims(timed, free, legal, same),
            "scale": scale.model_dump(mode="json"),
        },
    )


def claims(timed: Race, free: Race, legal: dict[str, float], same: dict[str, float]) -> list[Claim]:
    """What was found, as sentences."""
    return [
        Claim(claim="no slower than a free search", holds=free.ratio >= 1, figures={"free over constrained": free.ratio}),
        Claim(
            claim=f"at least {FASTER:g} times faster than a prefix function",
            holds=timed.ratio >= FASTER,
            figures={"ratio": timed.ratio},
        ),
        Claim(claim="every beam is an item", holds=legal["ours"] == 1, figures=legal),
        Claim(claim="the beams are the rival's, but for ties", holds=same["overlap"] >= 0.99, figures=same),
    ]


def allow(sids: np.ndarray) -> Allowed:
    """The prefix function of semantic IDs (N, K): a walk through a trie of dictionaries."""
    root: Node = {}
    for codes in sids.tolist():
        node = root
        for code in codes:
            node = node.setdefault(code, {})

    def allowed(context: int, tokens: torch.Tensor) -> list[int]:  # noqa: ARG001 - all contexts have the same items
        node = root
        for code in tokens[1:].tolist():
            node = node[code]
        return list(node)

    return allowed
