"""How a process computes on its machine: its threads, and what becomes of the memory that tensors free."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
KEPT_BYTES = 256 * 2**20
"""Tensors up to this size come from memory that the process keeps."""


def compute_with(threads: int) -> None:
    """Set torch's and numpy's threads, and keep the memory of freed tensors for the next ones. To be called when a process
    starts.

    The C library returns the memory of every larger tensor to the system when it is freed, so that a training step writes
    all its activations to pages that the kernel must first find and clear: 1,700 page faults and a seventh of the time of
    a step of three million parameters. The process then keeps what it needed at most. Other C libraries than glibc stay as
    they are.
    """
    torch.set_num_threads(threads)
    _set_numpy_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _set_numpy_threads(threads: int) -> None:
    """Of matrix products, if numpy came with the OpenBLAS of its wheels: its threads spin while one of them has no core."""
    for library in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        set_threads = getattr(ctypes.CDLL(str(library)), "scipy_openblas_set_num_threads64_", None)
        if set_threads:
            set_threads(threads)
