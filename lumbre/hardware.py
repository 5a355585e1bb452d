"""What the machine can do at best, and what the process has used of it."""

import resource
import sys
import time
from dataclasses import dataclass

import torch

DATA_SHEET_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 FLOP/s from NVIDIA's data sheets, by a part of the device's name."""


@dataclass(frozen=True)
class Peak:
    """The FLOP/s that MFU is measured against, and where the number comes from."""

    flops_per_second: float
    source: str
    """ "data sheet" or "measured"."""


def peak(device: torch.device, precision: str) -> Peak:
    """Return the device's peak: its data sheet's bfloat16 figure on known GPUs, else a measured product."""
    if device.type == "cuda" and precision == "bfloat16":
        name = torch.cuda.get_device_name(device)
        for part, flops in DATA_SHEET_FLOPS.items():
            if part in name:
                return Peak(flops, "data sheet")
    dtype = torch.float64 if precision == "float64" else torch.float32
    if device.type == "cuda" and precision == "bfloat16":
        dtype = torch.bfloat16
    return Peak(measure_product(device, dtype), "measured")


def measure_product(device: torch.device, dtype: torch.dtype, size: int = 1536, repeats: int = 10) -> float:
    """Return the best FLOP/s of a square matrix product of `size` (eight times that on a GPU).

    The best of the repeats, for a peak is what the device can do, not what it did while others used it.
    """
    size = size if device.type == "cpu" else 8 * size
    left, right = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        left @ right
        synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held: allocated on CUDA, resident elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
