"""Lloyd's algorithm run by faiss, under the contract of `fit_kmeans`: all clusters in use, exact labels, repeatable."""

from __future__ import annotations

import faiss
import torch
from torch import Tensor

from tokenizer_job.quantizers.kmeans import Progress, settle


def fit_kmeans_faiss(
    points: Tensor, start: Tensor, iterations: int, on_progress: Progress = lambda _: None
) -> tuple[Tensor, Tensor]:
    """Centroids float32 (C, d) and labels int64 (N,) after the given number of iterations from ``start``.

    faiss sees neither our tie rule nor our repair of empty clusters: both are applied to its centroids.
    """
    on_progress(f"{iterations} iterations of faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    kmeans = faiss.Kmeans(points.shape[1], len(start), niter=iterations, min_points_per_centroid=1)
    kmeans.cp.max_points_per_centroid = len(points)  # no subset: the caller has drawn one already
    kmeans.train(points.numpy(), init_centroids=start.numpy())
    assert kmeans.centroids is not None
    return settle(points, torch.from_numpy(kmeans.centroids.copy()))
