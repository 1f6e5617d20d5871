"""How fast a device multiplies matrices: what the share of it that a model uses (MFU) is measured against.

The figure is that of dense bf16 products where the device's data sheet is known, whatever precision a program uses. On other
devices, processors among them, it is measured once: the faster of fp32 and bf16.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

DATA_SHEETS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
"""Dense bf16 floating-point operations per second, by the name that CUDA tells. Their PCIe and NVL kin are slower."""
MEASURING_S = 0.1
"""How long a rate is measured, beside one product to warm up."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Floating-point operations per second (two per multiply-add), and where the figure comes from."""

    rate: float
    source: str


@lru_cache
def peak(device: torch.device) -> Peak:
    """The device's peak, found once per process: on a processor with the number of threads of the first call."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if name in DATA_SHEETS:
        return Peak(DATA_SHEETS[name], f"data sheet of {name}, dense bf16")
    return measured_peak(device)


def measured_peak(device: torch.device) -> Peak:
    """The faster of fp32 and bf16 products on this device, measured now."""
    return max((measured_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)), key=lambda found: found.rate)


def measured_rate(device: torch.device, dtype: torch.dtype) -> Peak:
    """The best run of one square product, repeated for `MEASURING_S`."""
    size = 512 if device.type == "cpu" else 8192
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.mm(left, right)
    best, deadline = math.inf, time.perf_counter() + MEASURING_S
    while math.isinf(best) or time.perf_counter() < deadline:
        synchronise(device)
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return Peak(2 * size**3 / best, f"measured: products of {size} x {size} {str(dtype).removeprefix('torch.')}{threads}")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
