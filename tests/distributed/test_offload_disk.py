"""Laws 2 and 3 where optimizer state and parameters are kept on a disk (ZeRO-Infinity)."""

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
LIBAIO = Path("/usr/include/libaio.h")
pytestmark = [
    pytest.mark.disk,
    pytest.mark.skipif(
        not BUILT.exists() and not LIBAIO.exists(),
        reason="DeepSpeed's op async_io is not built, and `make disk` installs what it is built of",
    ),
]

WIDE: dict[str, Any] = {"engine": "deepspeed", "stage": 3, "model": "wide"}
"""Parts of a megabyte, for what is smaller DeepSpeed leaves in memory, and no multiple of a disk's blocks."""
GROUPS = {"zero_optimization": {"sub_group_size": 1_000_000}}
"""Several groups of master weights, each read and written by itself."""
ALONE: dict[str, Any] = {"micro": 8, "engine": "accelerate", "model": "wide", "precision": "float64"}
"""The plain run in float64: torch's float32 norm of millions of elements is 1e-4 off on one thread."""
FROZEN: dict[str, Any] = {"method": {"type": "frozen", "trainable_layers": 1}}
BFLOAT16 = {"precision": "bfloat16"}


def cases(disk: Path) -> Mapping[int, list[dict[str, Any]]]:
    """Return the cases of two ranks and of one, which swap to `disk`."""

    def on(**places: str) -> dict[str, Any]:
        return {**WIDE, "deepspeed": GROUPS, "offload": {**places, "folder": str(disk)}}

    parameters = on(parameters="disk")
    everything = on(optimizer="disk", parameters="disk")
    mixed = on(optimizer="disk", parameters="cpu")
    return {
        2: [
            {"id": "zero3", **WIDE, "deepspeed": GROUPS},
            {"id": "zero3-bfloat16", **WIDE, "deepspeed": GROUPS, **BFLOAT16},
            {"id": "parameters", **parameters},
            {"id": "parameters-bfloat16", **parameters, **BFLOAT16},
            {"id": "optimizer", **on(optimizer="disk")},
            {"id": "mixed", **mixed},
            {"id": "everything", **everything},
            {"id": "everything-bfloat16", **everything, **BFLOAT16},
            {"id": "everything-recomputed", **everything, "activation_checkpointing": 1},
            {"id": "everything-frozen", **everything, **FROZEN},
            {"id": "mixed-resumed", "from": ["mixed", SAVED], **mixed},
            {"id": "everything-resumed", "from": ["everything", SAVED], **everything},
            {"id": "everything-rolled-back", "from": ["everything", SAVED], "used": True, **everything},
            {
                "id": "everything-bfloat16-resumed",
                "from": ["everything-bfloat16", SAVED],
                **everything,
                **BFLOAT16,
            },
            {
                "id": "everything-to-cpu",
                "from": ["everything", SAVED],
                **WIDE,
                "stage": 2,
                "offload": {"optimizer": "cpu"},
            },
        ],
        1: [
            {"id": "exact", **ALONE},
            {"id": "frozen", **ALONE, **FROZEN},
            {"id": "exact-to-everything", "from": ["exact", SAVED], **everything, "micro": 4},
            {"id": "everything-to-exact", "from": ["everything", SAVED], **ALONE},
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


@pytest.mark.parametrize("name", ["parameters", "optimizer", "mixed", "everything", "everything-recomputed"])
def test_a_disk_does_not_matter(results: "Results", name: str) -> None:
    assert results.difference(name, "exact") < 1e-5
    assert results.difference(name, "exact", "norms", first=1) < 1e-6


@pytest.mark.parametrize("precision", ["", "-bfloat16"])
def test_parameters_on_a_disk_change_no_bit(results: "Results", precision: str) -> None:
    """They are read as they were written, and let go after each use."""
    for key in ("losses", "norms"):
        assert results[f"parameters{precision}"][key] == results[f"zero3{precision}"][key]


def test_a_disk_does_not_matter_in_bfloat16(results: "Results") -> None:
    assert results.difference("everything-bfloat16", "zero3-bfloat16") < 2e-2
    assert results.difference("everything-bfloat16", "zero3-bfloat16", "norms", first=1) < 1e-6


@pytest.mark.parametrize(
    ("resumed", "unbroken"),
    [
        ("mixed-resumed", "mixed"),
        ("everything-resumed", "everything"),
        ("everything-rolled-back", "everything"),
        ("everything-bfloat16-resumed", "everything-bfloat16"),
    ],
)
def test_what_lies_on_a_disk_resumes_bit_identical(results: "Results", resumed: str, unbroken: str) -> None:
    results.assert_continues(resumed, unbroken, SAVED)


@pytest.mark.parametrize("name", ["everything-to-cpu", "exact-to-everything", "everything-to-exact"])
def test_resume_to_and_from_a_disk_is_the_same_run(results: "Results", name: str) -> None:
    assert results[name]["start"] == SAVED
    assert results.difference(name, "exact") < 1e-5


def test_what_is_frozen_stays_on_the_disk(results: "Results") -> None:
    assert results["everything-frozen"]["kept"]
    assert results.difference("everything-frozen", "frozen") < 1e-5


def test_each_was_on_the_disk_and_nothing_stays_there(results: "Results", disk: Path) -> None:
    assert results["optimizer"]["swapped"] == results["mixed"]["swapped"] == ["optimizer"]
    assert results["parameters"]["swapped"] == ["float32params"]
    assert results["everything"]["swapped"] == ["float32params", "optimizer"]
    assert results["everything-bfloat16"]["swapped"] == ["bfloat16params", "optimizer"]
    deadline = time.monotonic() + 30
    while list(disk.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(disk.iterdir()) == []
