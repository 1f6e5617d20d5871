"""The counts against figures that the OneRec reports print, or that their printed sizes imply."""

from __future__ import annotations

from typing import Any

import pytest

from common.policy.flops import TRAINING, Work, count_flops, training_flops_per_target
from common.settings import LazySettings, MoeSettings, PolicySettings, load_settings
from tests.factories import ARCHITECTURES

V2_SIZES = {"0.5B": (1408, 14, 11, 70), "1B": (1792, 18, 14, 90)}
V1 = PolicySettings(
    d_model=1024, heads=8, encoder_layers=4, decoder_layers=4, ffn=2048, codes=8192, feature_width=192, static_width=64,
    short_length=20, positive_length=256, lifelong_length=2000, lifelong_queries=128,
)  # fmt: skip


def v2(size: str = "1B", **lazy: Any) -> PolicySettings:
    """What the paper's figures imply: 512 context elements, each known by three embeddings and nothing else."""
    width, blocks, heads, embed = V2_SIZES[size]
    return PolicySettings(
        architecture="lazy_decoder", d_model=width, heads=heads, decoder_layers=blocks, ffn=4 * width, codes=8192,
        vid_input=False, side_inputs=False, static_width=3 * embed, short_length=20, positive_length=491,
        lazy=LazySettings(embed_width=embed, **lazy),
    )  # fmt: skip


def gflops(settings: PolicySettings) -> float:
    """Training GFLOPs of an item of five that share a context, attention's inner products left out."""
    return training_flops_per_target(settings, targets=5, attention=False) / 1e9


@pytest.fixture(scope="module")
def one_billion() -> float:
    return gflops(v2())


@pytest.mark.parametrize(
    ("lazy", "printed"),
    [
        ({"kv_split": 2}, 19.19),
        ({"kv_layers": 3}, 19.49),
        ({"kv_layers": 9}, 21.27),
        ({"kv_layers": 18}, 23.95),
        ({"kv_groups": 7}, 18.74),
        ({"kv_groups": 2}, 18.64),
        ({"kv_groups": 1}, 18.62),
    ],
)
def test_differences_between_the_papers_context_processors(lazy: dict[str, Any], printed: float, one_billion: float) -> None:
    """OneRec-V2, tables 3 and 4: rows against the row L_kv = S_kv = 1, G_kv = 14 with 18.89 GFLOPs."""
    assert gflops(v2(**lazy)) - one_billion == pytest.approx(printed - 18.89, abs=0.02)


@pytest.mark.parametrize(("size", "printed"), [("0.5B", 9.55), ("1B", 18.89)])
def test_totals_of_the_papers_lazy_decoders(size: str, printed: float) -> None:
    """OneRec-V2, table 2."""
    assert gflops(v2(size)) == pytest.approx(printed, rel=0.05)


def test_components_of_the_first_versions_encoder() -> None:
    """Forward GFLOPs of V1's 0.935B: pathways 34.9 without attention's products, encoder 29.9 with them."""
    context = count_flops(V1).context
    pathways = ("static_mlp", "short_mlp", "positive_mlp", "lifelong_mlp", "lifelong")
    assert sum(context[name].weights for name in pathways) / 1e9 == pytest.approx(34.9, rel=0.01)
    assert context["encoder"].total / 1e9 == pytest.approx(29.9, rel=0.01)
    assert context["decoder"].total / 1e9 == pytest.approx(6.8, rel=0.01)


def test_the_first_versions_decoder_with_two_active_experts() -> None:
    decoder = sum(count_flops(load_settings("v1-0.935b").policy).targets.values(), Work())
    assert decoder.total / 1e9 == pytest.approx(0.64, rel=0.01)


def test_a_mixture_costs_its_router_and_the_experts_that_a_token_visits() -> None:
    """Width 8, 2 of 4 routed experts and a shared one of width 16, five tokens."""
    moe = MoeSettings(experts=4, active=2, shared=1, width=16, encoder_blocks=[0])
    dense = PolicySettings(d_model=8, heads=2, ffn=24, codes=8, short_length=2, positive_length=2)
    before, after = (count_flops(s).context["encoder"] for s in (dense, dense.model_copy(update={"moe": moe})))
    tokens = 1 + 2 + 2
    assert before.weights - 2 * tokens * 2 * 8 * 24 == after.weights - 2 * tokens * (8 * 4 + 3 * 3 * 8 * 16)
    assert before.attention == after.attention


def test_the_mixture_of_four_billion_costs_what_half_a_billion_does() -> None:
    """OneRec-V2, table 5: 0.5B active; the routers of 12 blocks add little."""
    mixture, dense = (training_flops_per_target(load_settings(name).policy, 5) for name in ("v2-moe-4b", "v2-0.5b"))
    routers = TRAINING * 2 * 12 * 3 * 1408 * 53
    assert mixture - dense == pytest.approx(routers)


def test_a_small_count_by_hand() -> None:
    """Width 8, one block, two codes a level, context of user and two events: every product written out."""
    settings = PolicySettings(
        architecture="lazy_decoder", d_model=8, heads=2, ffn=32, levels=2, codes=2, static_width=5, vid_input=False,
        side_inputs=False, short_length=1, positive_length=1, lazy=LazySettings(embed_width=4),
    )  # fmt: skip
    flops = count_flops(settings, targets=3)
    events, targets, positions = 2, 3, 6
    assert flops.context == {"project_static": Work(2 * 5 * 8), "project_events": Work(2 * events * 2 * 4 * 8)}
    over_context, among_themselves = positions * (1 + events) * 8, targets * 2 * 2 * 8
    assert flops.targets == {
        "widen": Work(2 * targets * 4 * 8),
        "decoder": Work(2 * positions * (6 * 8 * 8 + 3 * 8 * 32), 2 * 2 * (over_context + among_themselves)),
        "heads": Work(2 * positions * 8 * 2),
    }
    assert training_flops_per_target(settings, targets=3) == TRAINING * flops.work.total / 3


@pytest.mark.parametrize("name", ["encoder-decoder", "lazy", "session"])
def test_a_longer_context_costs_more_and_is_shared(name: str) -> None:
    settings = ARCHITECTURES[name].model_copy(update={"positive_length": 200})
    short, long = (training_flops_per_target(settings, targets=5, events=events) for events in (10, 200))
    assert short < long < training_flops_per_target(settings, targets=1, events=200)
    assert training_flops_per_target(settings, targets=5, events=5000) == training_flops_per_target(settings, targets=5)


def test_the_lazy_context_is_almost_free() -> None:
    """OneRec-V2, table 1: nearly all of the lazy decoder's training goes into targets, little of an encoder's does."""
    target = sum(count_flops(v2(), targets=5).targets.values(), Work()).weights
    assert target / count_flops(v2(), targets=5).work.weights > 0.98
    encoder = count_flops(V1, targets=5)
    assert sum(encoder.targets.values(), Work()).total / encoder.work.total < 0.05
