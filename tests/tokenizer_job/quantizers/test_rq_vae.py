"""RQ-VAE: it learns, repeats itself, reads back, and encodes a row alone as in company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.settings import RqVaeSettings
from tokenizer_job.quantizers.codebooks import Floats
from tokenizer_job.quantizers.rq_vae import RqVae, _loss, fit_rq_vae

torch.set_num_threads(1)
SETTINGS = RqVaeSettings(latent=6, hidden=[24], epochs=40, batch=100, learning_rate=1e-2)


def clustered(items: int = 500, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, 10)) * 2
    return (centres[rng.integers(0, 12, items)] + 0.3 * rng.normal(size=(items, 10))).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> RqVae:
    return fit_rq_vae(clustered(), 16, 3, SETTINGS, seed=0)


def error(model: RqVae, vectors: Floats, levels: int) -> float:
    return float(((vectors - model.decode(model.encode(vectors)[:, :levels])) ** 2).mean())


def test_it_reconstructs_unseen_vectors_and_more_levels_help(model: RqVae) -> None:
    new = clustered(200, seed=5)
    untrained = fit_rq_vae(clustered(), 16, 3, SETTINGS.model_copy(update={"epochs": 1}), seed=0)
    assert error(model, new, 3) < 0.2 * float((new**2).mean())
    assert error(model, new, 3) < 0.5 * error(untrained, new, 3)
    assert error(model, new, 3) < error(model, new, 1)
    assert (model.levels, model.codes, model.method) == (3, 16, "rq_vae")


def test_a_row_alone_gets_the_codes_it_has_in_company_and_after_reading_back(model: RqVae, tmp_path: Path) -> None:
    vectors = clustered(60, seed=6)
    sids = model.encode(vectors)
    model.save(tmp_path / "model.safetensors")
    read = RqVae.load(tmp_path / "model.safetensors")
    assert read.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(np.concatenate([read.encode(row[None]) for row in vectors]), sids)
    np.testing.assert_array_equal(model.last_level_distances(vectors, sids).argmin(1), sids[:, -1])


def test_the_same_seed_gives_the_same_weights() -> None:
    short = SETTINGS.model_copy(update={"epochs": 2})
    prints = [fit_rq_vae(clustered(), 8, 2, short, seed).fingerprint() for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


def test_codebooks_may_start_after_a_warm_up_and_must_start_at_all() -> None:
    warm = SETTINGS.model_copy(update={"warm_up": 10})
    said: list[str] = []
    model = fit_rq_vae(clustered(), 16, 3, warm, seed=0, on_progress=said.append)
    assert error(model, clustered(200, seed=5), 3) < 0.2 * float((clustered(200, seed=5) ** 2).mean())
    assert len(set(model.encode(clustered())[:, 0].tolist())) > 8
    assert model.fingerprint() != fit_rq_vae(clustered(), 16, 3, SETTINGS, seed=0).fingerprint()
    with pytest.raises(ValueError, match=r"warm_up must be below epochs \(40\), got 40"):
        RqVaeSettings(epochs=40, warm_up=40)


def test_the_loss_is_the_formula_and_gradients_pass_straight_through() -> None:
    """One linear layer each way, one level, one code of two taken: everything can be written down."""
    weights = {
        "encoder.0.weight": torch.tensor([[2.0]], requires_grad=True),
        "encoder.0.bias": torch.zeros(1),
        "decoder.0.weight": torch.tensor([[3.0]], requires_grad=True),
        "decoder.0.bias": torch.zeros(1),
        "codebooks": torch.tensor([[[1.0], [9.0]]], requires_grad=True),
    }
    loss, squared = _loss(weights, torch.tensor([[1.0]]), commitment=0.25)
    # z = 2, code e = 1, xhat = 3 e = 3: (1 - 3)^2 + (z - e)^2 + 0.25 (z - e)^2
    assert squared.item() == 4.0
    assert loss.item() == 4.0 + 1.0 + 0.25
    loss.backward()
    slopes = [weights[name].grad for name in ("encoder.0.weight", "decoder.0.weight", "codebooks")]
    # encoder: d xhat/d z = 3 as if z were the code, -2 (1 - 3) 3 = 12, and 0.25 * 2 (z - e) = 0.5, both times x = 1
    assert [slope.flatten().tolist() for slope in slopes if slope is not None] == [[12.5], [4.0], [-2.0, 0.0]]


def test_a_first_batch_with_too_few_vectors_is_named() -> None:
    with pytest.raises(ValueError, match=r"rq_vae.batch=8\), level 1, has 8 distinct points for 16 codes"):
        fit_rq_vae(clustered(), 16, 2, SETTINGS.model_copy(update={"batch": 8}), seed=0)


def test_progress_tells_the_error() -> None:
    said: list[str] = []
    fit_rq_vae(clustered(), 8, 2, SETTINGS.model_copy(update={"epochs": 20}), 0, said.append)
    assert len(said) == 10
    assert said[-1].startswith("epoch 20 of 20: squared error ")
