"""Liger's kernels give what torch's norms and activations give: by Triton's interpreter, without a GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.skipif(find_spec("liger_kernel") is None, reason="liger-kernel is not installed: make kernels")
@pytest.mark.parametrize("device", DEVICES)
def test_a_models_loss_and_gradients_are_those_of_float64_with_ligers_kernels(device: str) -> None:
    interpreted = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("liger_step.py"), device],
        env={**os.environ, **interpreted},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
