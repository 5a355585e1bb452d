"""Laws 2 and 3 where optimizer state is kept on a disk (ZeRO-Infinity)."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lumbre.engine.swap import extensions

from .test_layouts import SAVED

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

BUILT = extensions() / "async_io" / "async_io.so"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not BUILT.exists() and "LUMBRE_DISK" not in os.environ,
        reason="DeepSpeed's op async_io is not built: LUMBRE_DISK=1 builds it, which takes minutes, libaio",
    ),
]

WIDE: dict[str, Any] = {"engine": "deepspeed", "stage": 3, "model": "wide"}
"""Wide enough for parts of a megabyte: DeepSpeed leaves what is smaller in memory."""
GROUPS = {"zero_optimization": {"sub_group_size": 1_000_000}}
"""Several groups of master weights, each read and written by itself."""


def cases(disk: Path) -> Mapping[int, list[dict[str, Any]]]:
    """Return the cases of two ranks and of one, which swap to `disk`."""
    optimizer = {**WIDE, "deepspeed": GROUPS, "offload": {"optimizer": "disk", "folder": str(disk)}}
    both = {**WIDE, "deepspeed": GROUPS}
    both["offload"] = {"optimizer": "disk", "parameters": "cpu", "folder": str(disk)}
    bfloat16 = {**both, "precision": "bfloat16"}
    cpu = {**WIDE, "stage": 2, "offload": {"optimizer": "cpu"}}
    return {
        2: [
            {"id": "optimizer", **optimizer},
            {"id": "both", **both},
            {"id": "both-bfloat16", **bfloat16},
            {"id": "optimizer-resumed", "from": ["optimizer", SAVED], **optimizer},
            {"id": "both-resumed", "from": ["both", SAVED], **both},
            {"id": "both-rolled-back", "from": ["both", SAVED], "used": True, **both},
            {"id": "both-bfloat16-resumed", "from": ["both-bfloat16", SAVED], **bfloat16},
            {"id": "both-to-cpu", "from": ["both", SAVED], **cpu},
            {"id": "zero3-bfloat16", **WIDE, "precision": "bfloat16"},
        ],
        1: [
            {"id": "alone", "micro": 8, "engine": "accelerate", "model": "wide"},
            {"id": "exact", "micro": 8, "engine": "accelerate", "model": "wide", "precision": "float64"},
            {"id": "alone-to-both", "micro": 4, "from": ["alone", SAVED], **both},
            {
                "id": "both-to-alone",
                "micro": 8,
                "from": ["both", SAVED],
                "engine": "accelerate",
                "model": "wide",
            },
        ],
    }


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that is swapped to."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups", disk: Path) -> "Results":
    """Run both groups on the CPU."""
    return run_groups(cases(disk), "")


@pytest.mark.parametrize("name", ["optimizer", "both"])
def test_a_disk_does_not_matter(results: "Results", name: str) -> None:
    """Against float64: torch's float32 norm of so many elements is itself 1.5e-6 off."""
    assert results.difference(name, "exact") < 1e-5
    assert results.difference(name, "exact", "norms", first=1) < 1e-6


def test_a_disk_does_not_matter_in_bfloat16(results: "Results") -> None:
    assert results.difference("both-bfloat16", "zero3-bfloat16") < 2e-2
    assert results.difference("both-bfloat16", "zero3-bfloat16", "norms", first=1) < 1e-6


@pytest.mark.parametrize(
    ("resumed", "unbroken"),
    [
        ("optimizer-resumed", "optimizer"),
        ("both-resumed", "both"),
        ("both-rolled-back", "both"),
        ("both-bfloat16-resumed", "both-bfloat16"),
    ],
)
def test_what_lies_on_a_disk_resumes_bit_identical(results: "Results", resumed: str, unbroken: str) -> None:
    results.assert_continues(resumed, unbroken, SAVED)


@pytest.mark.parametrize("name", ["both-to-cpu", "alone-to-both", "both-to-alone"])
def test_resume_to_and_from_a_disk_is_the_same_run(results: "Results", name: str) -> None:
    assert results[name]["start"] == SAVED
    assert results.difference(name, "alone") < 1e-5


def test_each_was_on_the_disk_and_nothing_stays_there(results: "Results", disk: Path) -> None:
    assert results["optimizer"]["swapped"] == ["optimizer"]
    assert results["both"]["swapped"] == results["both-bfloat16"]["swapped"] == ["optimizer"]
    deadline = time.monotonic() + 30
    while list(disk.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(disk.iterdir()) == []
