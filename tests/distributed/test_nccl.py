"""Laws 2 and 3 on two CUDA devices under NCCL, by the cases and the worker that the CPU's groups run.

Not run where fewer than two CUDA devices are visible, which has been so on every machine that it was written
and reviewed on: read its first failure as news about the test as much as about the engines.
"""

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices are visible"),
]

STAGES = range(4)
PRECISIONS = ("float32", "bfloat16")
SAVED = 6


def case(stage: int, precision: str, **more: Any) -> dict[str, Any]:
    """Return a DeepSpeed case."""
    name = f"zero{stage}-{precision}"
    return {"id": name, "engine": "deepspeed", "stage": stage, "precision": precision, **more}


def resumed(stage: int, precision: str) -> dict[str, Any]:
    """Return the case that goes on from another one's checkpoint."""
    name = f"zero{stage}-{precision}"
    return case(stage, precision, **{"id": f"{name}-resumed", "from": [name, SAVED]})


TWO_DEVICES = [make(stage, kind) for kind in PRECISIONS for stage in STAGES for make in (case, resumed)]
ONE_DEVICE = [{"id": "alone", "engine": "accelerate", "micro": 8}]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run both groups on the devices that are visible here."""
    return run_groups({2: TWO_DEVICES, 1: ONE_DEVICE}, os.environ.get("CUDA_VISIBLE_DEVICES") or "0,1")


@pytest.mark.parametrize("stage", STAGES)
def test_layout_does_not_matter_on_cuda(results: "Results", stage: int) -> None:
    """Losses and the first gradient's norm agree with one device, one micro batch (law 2, float32)."""
    assert results.difference(f"zero{stage}-float32", "alone") < (1e-5 if stage == 3 else 1e-6)
    assert results.difference(f"zero{stage}-float32", "alone", "norms", first=1) < 1e-6


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_resume_is_bit_identical_on_cuda(results: "Results", stage: int, precision: str) -> None:
    """A run continued from its checkpoint repeats the unbroken run to the bit (law 3)."""
    results.assert_continues(f"zero{stage}-{precision}-resumed", f"zero{stage}-{precision}", SAVED)


@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_follows_float32_on_cuda(results: "Results", stage: int) -> None:
    """Rounding shows in the third digit and no other path is taken."""
    assert results.difference(f"zero{stage}-bfloat16", "alone") < 2e-2


def test_every_case_ran_on_cuda_over_nccl(results: "Results") -> None:
    for cases, world in ((TWO_DEVICES, 2), (ONE_DEVICE, 1)):
        for name in (case["id"] for case in cases):
            assert (results[name]["world"], results[name]["device"]) == (world, "cuda"), name
            assert results[name]["backend"] == ("nccl" if world == 2 else None), name
