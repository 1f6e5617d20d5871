"""Empty clusters are put to use again: each takes the worst placed point of the most spread cluster."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenizer_job.quantizers.nearest import squared_distance


def fill_empty(points: Tensor, centroids: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
    """Centroids (C, d) of which every empty one was moved, and whether any was.

    An empty cluster's centroid becomes the farthest point of the cluster with the largest inertia, and takes the points
    of that cluster that are nearer to it, so that the next empty cluster gets a distinct point.
    """
    x, codebook, own = points.numpy(), centroids.numpy().copy(), labels.numpy().copy()
    counts = np.bincount(own, minlength=len(codebook))
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return centroids, False
    # sum |x - c|^2 = sum |x|^2 - n |c|^2 where c is the mean: an estimate, made exact for the clusters that matter.
    inertia = np.bincount(own, np.einsum("nd,nd->n", x, x), len(codebook)) - counts * squared_distance(
        codebook, codebook * 0
    )
    exact = counts == 0
    for cluster in empty:
        while not exact[donor := int(inertia.argmax())]:
            members = np.flatnonzero(own == donor)
            inertia[donor] = squared_distance(x[members], codebook[donor]).sum()
            exact[donor] = True
        members = np.flatnonzero(own == donor)
        distance = squared_distance(x[members], codebook[donor])
        codebook[cluster] = x[members[distance.argmax()]]
        nearer = squared_distance(x[members], codebook[cluster])
        moved = nearer < distance
        own[members[moved]] = cluster
        inertia[donor], inertia[cluster] = distance[~moved].sum(), nearer[moved].sum()
    return torch.from_numpy(codebook), True
