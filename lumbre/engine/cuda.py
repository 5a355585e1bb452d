"""The keys that CUDA devices alone serve: what a machine must have for each."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import torch

from lumbre.errors import Problem

PACKAGES = {"float8": "torchao", "liger": "liger_kernel", "cuda_graphs": "triton"}
"""What each key's kernels are by; triton comes with torch's own CUDA builds."""
FLOAT8 = (8, 9)
"""The first compute capability with products of 8-bit floats: Ada's, then Hopper's 9.0."""


def faults(asked: Mapping[str, str], device: torch.device) -> Iterator[Problem]:
    """Yield what this machine lacks for keys that are set, each of which comes with the value that is off."""
    for key, off in asked.items():
        if device.type != "cuda":
            fault = f"needs a CUDA device, and the run is on {device.type}"
            yield Problem(key, fault, f"use {off}, or a machine with a GPU")
        if find_spec(PACKAGES[key]) is None:
            fault = f"needs the package {PACKAGES[key]}, which is not installed"
            yield Problem(key, fault, f"pip install 'lumbre[gpu]', or use {off}")
    if "float8" in asked and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FLOAT8:
            name, (major, minor) = torch.cuda.get_device_name(device), capability
            fault = f"needs compute capability {FLOAT8[0]}.{FLOAT8[1]}, and {name} has {major}.{minor}"
            yield Problem("float8", fault, f"use {asked['float8']}")
