"""Laws 2 and 3 on real processes: one group of two ranks and one process alone run every case once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")
LAYOUTS: dict[str, dict[str, Any]] = {
    "accelerate": {"engine": "accelerate"},
    **{f"zero{stage}": {"engine": "deepspeed", "stage": stage} for stage in range(4)},
}
SAVED = 6

TWO_RANKS = [
    *({"id": f"{name}-2", **layout} for name, layout in LAYOUTS.items()),
    *(
        {"id": f"{name}-2-resumed", "from": [f"{name}-2", SAVED], **layout}
        for name, layout in LAYOUTS.items()
    ),
    *(
        {"id": f"{old}-2-to-{new}-2", "from": [f"{old}-2", SAVED], **LAYOUTS[new]}
        for old, new in [
            ("zero1", "zero3"),
            ("zero3", "zero0"),
            ("accelerate", "zero2"),
            ("zero2", "accelerate"),
        ]
    ),
    *({"id": f"{name}-2-bfloat16", "precision": "bfloat16", **layout} for name, layout in LAYOUTS.items()),
    {
        "id": "zero2-2-bfloat16-resumed",
        "precision": "bfloat16",
        "from": ["zero2-2-bfloat16", SAVED],
        **LAYOUTS["zero2"],
    },
    {
        "id": "zero3-2-bfloat16-resumed",
        "precision": "bfloat16",
        "from": ["zero3-2-bfloat16", SAVED],
        **LAYOUTS["zero3"],
    },
]
ALONE = [
    {"id": "accelerate-1", "micro": 8, **LAYOUTS["accelerate"]},
    {"id": "accelerate-1-accumulated", "micro": 1, **LAYOUTS["accelerate"]},
    {"id": "zero2-1", "micro": 4, **LAYOUTS["zero2"]},
    {"id": "float64-1", "micro": 8, "precision": "float64", **LAYOUTS["accelerate"]},
    {"id": "float64-1-accumulated", "micro": 2, "precision": "float64", **LAYOUTS["accelerate"]},
    *(
        {"id": f"{old}-2-to-{new}-1", "from": [f"{old}-2", SAVED], "micro": 4, **LAYOUTS[new]}
        for old, new in [("zero3", "accelerate"), ("zero1", "zero3"), ("accelerate", "zero1")]
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run both groups; return their folder and the results by case."""
    folder = tmp_path_factory.mktemp("layouts")
    root = WORKER.parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found: dict[str, Any] = {}
    for launcher, cases, world in ((torchrun, TWO_RANKS, 2), ([sys.executable], ALONE, 1)):
        file = folder / f"cases-{world}.json"
        file.write_text(json.dumps(cases))
        done = subprocess.run(
            [*launcher, str(WORKER), str(folder), str(file)],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found |= json.loads((folder / f"results-{world}.json").read_text())
    return folder, found


def relative(left: list[float], right: list[float]) -> float:
    """Return the largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("case", [f"{name}-2" for name in LAYOUTS] + ["accelerate-1-accumulated", "zero2-1"])
def test_layout_does_not_matter(results: tuple[Path, dict[str, Any]], case: str) -> None:
    """Losses and gradient norms agree with one process, one micro batch (law 2, float32)."""
    _, found = results
    bound = 1e-5 if "zero3" in case else 1e-6
    assert relative(found[case]["losses"], found["accelerate-1"]["losses"]) < bound
    assert relative(found[case]["norms"][:1], found["accelerate-1"]["norms"][:1]) < 1e-6


def test_accumulation_does_not_matter_in_float64(results: tuple[Path, dict[str, Any]]) -> None:
    """Loss and gradient agree to 1e-12 (law 2, float64)."""
    _, found = results
    one, many = found["float64-1"], found["float64-1-accumulated"]
    assert relative(many["losses"][:1], one["losses"][:1]) < 1e-12
    assert relative(many["norms"][:1], one["norms"][:1]) < 1e-12


@pytest.mark.parametrize("name", LAYOUTS)
def test_resume_is_bit_identical(results: tuple[Path, dict[str, Any]], name: str) -> None:
    """A run continued from its checkpoint repeats the unbroken run to the bit (law 3)."""
    folder, found = results
    unbroken, resumed = found[f"{name}-2"], found[f"{name}-2-resumed"]
    assert resumed["start"] == SAVED
    assert resumed["losses"] == unbroken["losses"][SAVED:]
    assert_same_weights(folder / f"{name}-2-resumed.pt", folder / f"{name}-2.pt")


@pytest.mark.parametrize("stage", [2, 3])
def test_resume_is_bit_identical_in_bfloat16(results: tuple[Path, dict[str, Any]], stage: int) -> None:
    """The float32 master weights come back, and the bfloat16 weights from them (law 3)."""
    folder, found = results
    name = f"zero{stage}-2-bfloat16"
    assert found[f"{name}-resumed"]["losses"] == found[name]["losses"][SAVED:]
    assert_same_weights(folder / f"{name}-resumed.pt", folder / f"{name}.pt")


@pytest.mark.parametrize("case", [case["id"] for case in [*TWO_RANKS, *ALONE] if "-to-" in case["id"]])
def test_resume_on_another_layout_is_the_same_run(results: tuple[Path, dict[str, Any]], case: str) -> None:
    """Another engine, stage or world goes on with the same losses, optimizer state included (law 3)."""
    _, found = results
    assert found[case]["start"] == SAVED
    assert relative(found[case]["losses"], found["accelerate-1"]["losses"][SAVED:]) < 1e-5


@pytest.mark.parametrize("name", LAYOUTS)
def test_bfloat16_follows_float32(results: tuple[Path, dict[str, Any]], name: str) -> None:
    """Rounding shows in the third digit and no other path is taken (stage 0 of DeepSpeed would)."""
    _, found = results
    assert relative(found[f"{name}-2-bfloat16"]["losses"], found["accelerate-1"]["losses"]) < 2e-2


def test_the_engine_and_world_asked_for_run(results: tuple[Path, dict[str, Any]]) -> None:
    """Every case ran on the engine and the number of ranks that it names."""
    _, found = results
    for case in [*TWO_RANKS, *ALONE]:
        expected = {"accelerate": "AccelerateEngine", "deepspeed": "DeepSpeedEngine"}[case["engine"]]
        assert found[case["id"]]["engine"] == expected
        assert found[case["id"]]["world"] == (2 if case in TWO_RANKS else 1)


def assert_same_weights(left: Path, right: Path) -> None:
    """Assert that two saved state dicts are equal to the bit."""
    one, two = torch.load(left, weights_only=True), torch.load(right, weights_only=True)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
