"""The residual-quantised autoencoder (RQ-VAE, Lee et al. 2022), the baseline of the OneRec technical report.

z = encoder(x); each level takes the nearest code e of what is left of z; xhat = decoder(sum of codes). Loss per item:
||x - xhat||^2 + sum_l (||sg(r_l) - e_l||^2 + beta ||r_l - sg(e_l)||^2), gradients passing straight through the codes.
Codes that die stay dead, as in the paper's comparison. Shape legend: N items, K levels, N_t codes per level, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear, relu

from common.settings import RqVaeSettings
from tokenizer_job.quantizers.codebooks import Codes, Floats, ResidualCodebooks, as_points, fingerprint
from tokenizer_job.quantizers.kmeans import Progress, fit_kmeans
from tokenizer_job.quantizers.nearest import assign
from tokenizer_job.quantizers.start import choose_start

METHOD = "rq_vae"
INIT_ITERATIONS = 10
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class RqVae:
    """Perceptrons before and after residual codebooks (K, N_t, latent); ``tensors`` holds everything under its name."""

    tensors: dict[str, Floats]
    method: str = METHOD

    @property
    def latent(self) -> ResidualCodebooks:
        """The codebooks of the latent space."""
        return ResidualCodebooks(self.tensors["codebooks"])

    @property
    def levels(self) -> int:
        """K."""
        return self.latent.levels

    @property
    def codes(self) -> int:
        """N_t."""
        return self.latent.codes

    def fingerprint(self) -> str:
        """The tokenizer's version: equal for equal weights and codebooks."""
        return fingerprint(self.method, self.tensors)

    def encode(self, vectors: Floats) -> Codes:
        """SIDs (N, K) of vectors (N, d)."""
        return self.latent.encode(self._latent(vectors))

    def decode(self, sids: Codes) -> Floats:
        """The vectors (N, d) that the decoder makes of the sum of the codes of any number of leading levels."""
        return self._run("decoder", self.latent.decode(sids))

    def last_level_distances(self, vectors: Floats, sids: Codes) -> Floats:
        """Squared latent distances (N, N_t) of what is left after the first K-1 codes to the last codes."""
        return self.latent.last_level_distances(self._latent(vectors), sids)

    def save(self, path: Path) -> None:
        """Write weights and codebooks as safetensors."""
        save_file(self.tensors, path, metadata={"method": self.method})

    @staticmethod
    def load(path: Path) -> RqVae:
        """Inverse of `save`."""
        return RqVae(load_file(path))

    def _latent(self, vectors: Floats) -> Floats:
        return self._run("encoder", as_points(vectors, self.tensors["encoder.0.weight"].shape[1]).numpy())

    def _run(self, name: str, inputs: Floats) -> Floats:
        """A perceptron in float64: float32 products round differently with the number of rows, and codes would flip."""
        layers = {k: torch.from_numpy(v).double() for k, v in self.tensors.items() if k.startswith(name)}
        chunks = torch.from_numpy(inputs).split(ROWS_AT_ONCE)
        return torch.cat([_perceptron(layers, name, chunk.double()).float() for chunk in chunks]).numpy()


def fit_rq_vae(
    vectors: Floats, codes: int, levels: int, settings: RqVaeSettings, seed: int, on_progress: Progress = lambda _: None
) -> RqVae:
    """Train on item vectors (N, d) with Adam; codebooks start from k-means on a batch's latents, after the warm-up.

    Raises:
        ValueError: a vector is not finite, or the first batch has fewer distinct vectors than ``codes``.
    """
    points = as_points(vectors)
    generator = torch.Generator().manual_seed(seed)
    widths = [points.shape[1], *settings.hidden, settings.latent]
    weights = _initial("encoder", widths, generator) | _initial("decoder", widths[::-1], generator)
    order = torch.randperm(len(points), generator=generator)
    optimizer = torch.optim.Adam([tensor.requires_grad_() for tensor in weights.values()], lr=settings.learning_rate)
    for epoch in range(1, settings.epochs + 1):
        if epoch == settings.warm_up + 1:
            weights["codebooks"] = _initial_codebooks(weights, points[order[: settings.batch]], codes, levels, generator)
            optimizer.add_param_group({"params": [weights["codebooks"].requires_grad_()]})
        total = 0.0
        for rows in torch.randperm(len(points), generator=generator).split(settings.batch):
            batch = points[rows]
            loss, error = _loss(weights, batch, settings.commitment)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(error) * len(rows)
        if epoch % max(1, settings.epochs // 10) == 0:
            on_progress(f"epoch {epoch} of {settings.epochs}: squared error {total / points.numel():.6f} per dimension")
    return RqVae({name: tensor.detach().numpy() for name, tensor in weights.items()})


def _initial(name: str, widths: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and biases of a perceptron (He et al. 2015: variance 2 / inputs)."""
    layers: dict[str, Tensor] = {}
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        layers[f"{name}.{layer}.weight"] = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        layers[f"{name}.{layer}.bias"] = torch.zeros(outputs)
    return layers


def _perceptron(layers: dict[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    """Linear layers with ReLU between them."""
    depth = sum(key.startswith(name) for key in layers) // 2
    for layer in range(depth):
        inputs = linear(inputs, layers[f"{name}.{layer}.weight"], layers[f"{name}.{layer}.bias"])
        inputs = relu(inputs) if layer < depth - 1 else inputs
    return inputs


@torch.no_grad()
def _initial_codebooks(
    weights: dict[str, Tensor], batch: Tensor, codes: int, levels: int, generator: torch.Generator
) -> Tensor:
    """Codebooks (K, N_t, latent) by residual k-means on the latents of one batch."""
    residual, codebooks = _perceptron(weights, "encoder", batch), []
    for level in range(1, levels + 1):
        start = choose_start(
            residual, codes, generator, f"the first batch (tokenizer.rq_vae.batch={len(batch)}), level {level},"
        )
        centroids, labels = fit_kmeans(residual, start, INIT_ITERATIONS)
        residual = residual - centroids[labels]
        codebooks.append(centroids)
    return torch.stack(codebooks)


def _loss(weights: dict[str, Tensor], batch: Tensor, commitment: float) -> tuple[Tensor, Tensor]:
    """The loss, a mean over items, and the squared error of an item's vector within it."""
    latent = _perceptron(weights, "encoder", batch)
    residual, quantised = latent, torch.zeros_like(latent)
    loss = torch.zeros(())
    for codebook in weights.get("codebooks", ()):
        code = codebook[assign(residual.detach(), codebook.detach())]
        loss = loss + (residual.detach() - code).square().sum(1).mean()
        loss = loss + commitment * (residual - code.detach()).square().sum(1).mean()
        residual, quantised = residual - code.detach(), quantised + code.detach()
    passed = latent + (quantised - latent).detach() if "codebooks" in weights else latent
    rebuilt = _perceptron(weights, "decoder", passed)
    error = (batch - rebuilt).square().sum(1).mean()
    return loss + error, error.detach()
