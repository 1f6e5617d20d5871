"""What every quantizer promises, whichever the settings choose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from common.settings import RqVaeSettings, TokenizerSettings
from tokenizer_job.quantizers import Quantizer, fit_quantizer, load_quantizer
from tokenizer_job.quantizers.codebooks import Floats
from tokenizer_job.quantizers.kmeans import fit_kmeans
from tokenizer_job.quantizers.quantizer import choose_lloyd

torch.set_num_threads(1)
SETTINGS = {
    "rq_kmeans": TokenizerSettings(iterations=5, backend="torch"),
    "balanced": TokenizerSettings(method="balanced"),
    "rq_vae": TokenizerSettings(
        method="rq_vae", rq_vae=RqVaeSettings(latent=4, hidden=[16], epochs=5, batch=100, learning_rate=3e-3)
    ),
}


def clustered(items: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(12, 8))[rng.integers(0, 12, items)] * 3 + rng.normal(size=(items, 8))).astype(np.float32)


@pytest.fixture(scope="module", params=SETTINGS)
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return fit_quantizer(clustered(300), SETTINGS[request.param], 12, 3, seed=0).quantizer


def test_codes_are_in_range_and_shapes_as_promised(quantizer: Quantizer) -> None:
    new = clustered(40, seed=1)
    sids = quantizer.encode(new)
    assert sids.shape == (40, 3)
    assert sids.dtype == np.int32
    assert 0 <= sids.min() <= sids.max() < quantizer.codes == 12
    assert quantizer.levels == 3
    for levels in (0, 1, 2, 3):
        assert quantizer.decode(sids[:, :levels]).shape == (40, 8)
    distances = quantizer.last_level_distances(new, sids)
    assert distances.shape == (40, 12)
    np.testing.assert_array_equal(distances.argmin(1), sids[:, -1])


def test_a_file_gives_the_same_quantizer(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.save(tmp_path / "quantizer.safetensors")
    read = load_quantizer(tmp_path / "quantizer.safetensors")
    assert (read.method, read.fingerprint()) == (quantizer.method, quantizer.fingerprint())
    np.testing.assert_array_equal(read.encode(clustered(50, seed=2)), quantizer.encode(clustered(50, seed=2)))


def test_bad_vectors_are_named(quantizer: Quantizer) -> None:
    for value, said in ((np.nan, "nan"), (np.inf, "inf"), (-1e25, "-9.9[0-9]*e")):
        vectors = clustered(5)
        vectors[3, 2] = vectors[4, 0] = value
        with pytest.raises(ValueError, match=rf"row 3 has {said}.* \(2 such rows\)"):
            quantizer.encode(vectors)
    with pytest.raises(ValueError, match=r"shape \(items, 8\), got \(5, 7\)"):
        quantizer.encode(clustered(5)[:, :7])


def test_no_items_are_no_error(quantizer: Quantizer) -> None:
    assert quantizer.encode(np.empty((0, 8), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("method", SETTINGS)
def test_a_fit_repeats_itself_and_refuses_bad_vectors(method: str) -> None:
    settings = SETTINGS[method]
    first, second = (fit_quantizer(clustered(300), settings, 12, 2, seed=3) for _ in range(2))
    assert first.quantizer.fingerprint() == second.quantizer.fingerprint()
    np.testing.assert_array_equal(first.sids, second.sids)
    if method != "balanced":
        np.testing.assert_array_equal(first.sids, first.quantizer.encode(clustered(300)))
    vectors = clustered(300)
    vectors[17] = np.nan
    with pytest.raises(ValueError, match="row 17 has nan"):
        fit_quantizer(vectors, settings, 12, 2, seed=3)
    with pytest.raises(ValueError, match="has 6 distinct points for 12 codes"):
        fit_quantizer(np.repeat(clustered(6), 20, axis=0), settings, 12, 2, seed=3)


def test_the_method_is_part_of_the_fingerprint_and_of_the_file(tmp_path: Path) -> None:
    fitted = [fit_quantizer(clustered(24), SETTINGS[method], 12, 1, seed=0) for method in ("rq_kmeans", "balanced")]
    assert len({fit.quantizer.fingerprint() for fit in fitted}) == 2
    save_file({"codebooks": np.zeros((1, 2, 3), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has method none: expected rq_kmeans, balanced or rq_vae"):
        load_quantizer(tmp_path / "other.safetensors")


def test_the_backend_is_faiss_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_lloyd("torch") is fit_kmeans
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert choose_lloyd("auto") is fit_kmeans
    with pytest.raises(ValueError, match=r"tokenizer.backend=faiss needs faiss: pip install"):
        choose_lloyd("faiss")
