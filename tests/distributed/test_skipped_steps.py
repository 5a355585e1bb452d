"""A gradient that is NaN on one rank alone: no rank updates anything, on any engine and stage."""

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lumbre.checkpoint import Reader

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, dict[str, Any]] = {
    "accelerate": {"engine": "accelerate"},
    **{f"zero{stage}": {"engine": "deepspeed", "stage": stage} for stage in range(4)},
    "zero2-bfloat16": {"engine": "deepspeed", "stage": 2, "precision": "bfloat16"},
}
BATCH, STEPS, LAST = 8, 12, 7
"""Samples of a step, steps of a case, and the sample of a step that rank 1 has in its last micro batch."""
SKIPPED, SAVED = 4, 6


def spoiled(*steps: int) -> list[int]:
    """Return the sample of each step whose loss is NaN, on rank 1 of 2 alone."""
    return [step * BATCH + LAST for step in steps]


CASES = [
    *({"id": f"{name}-plain", **layout} for name, layout in LAYOUTS.items()),
    *({"id": f"{name}-left-out", "left_out": [1, 5, 11], **layout} for name, layout in LAYOUTS.items()),
    *(
        {"id": name, "spoiled": spoiled(SKIPPED), "save_every": 1, **layout}
        for name, layout in LAYOUTS.items()
    ),
    *(
        {"id": f"{name}-resumed", "from": [name, SAVED], "spoiled": spoiled(SKIPPED), **layout}
        for name, layout in LAYOUTS.items()
    ),
    *(
        {
            "id": f"{name}-rolled-back",
            "spoiled": spoiled(8, 9, 10),
            "non_finite": {"skip": 2},
            **layout,
        }
        for name, layout in LAYOUTS.items()
    ),
    *(
        {
            "id": f"{name}-passed",
            "from": [f"{name}-rolled-back", SAVED],
            "spoiled": spoiled(7, 8, 9, 10),
            "non_finite": {"skip": 9},
            **layout,
        }
        for name, layout in LAYOUTS.items()
    ),
]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run every case in one group of two ranks."""
    return run_groups({2: CASES}, "")


def kept(results: "Results", case: str, step: int) -> dict[str, torch.Tensor]:
    """Return all that a checkpoint keeps of weights and optimizer."""
    reader = Reader(results.folder / case / f"step-{step:08d}")
    return {
        f"{kind}/{name}": reader.read(kind, name, 0, math.prod(shape))
        for name, shape in reader.shapes.items()
        for kind in ("param", "exp_avg", "exp_avg_sq")
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_nan_on_one_rank_updates_nothing_anywhere(results: "Results", name: str) -> None:
    """Weights and optimizer state are bit-identical to those before the step, and the run goes on."""
    before, after, later = (kept(results, name, step) for step in (SKIPPED - 1, SKIPPED, SKIPPED + 1))
    assert before.keys() == after.keys() == later.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(torch.equal(later[key], after[key]) for key in before if key.startswith("exp_avg/"))
    losses = results[name]["losses"]
    assert len(losses) == STEPS
    assert [step for step, loss in enumerate(losses, start=1) if not math.isfinite(loss)] == [SKIPPED]
    assert [event[:2] for event in results[name]["events"]] == [["step_skipped", SKIPPED]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_that_skipped_a_step_resumes_bit_identical(results: "Results", name: str) -> None:
    """The optimizer's own count of steps comes back, which is one less than the run's (law 3)."""
    results.assert_continues(f"{name}-resumed", name, SAVED)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_that_rolled_back_goes_on_from_the_checkpoint_past_the_data(
    results: "Results", name: str
) -> None:
    """It ends as one that took the same checkpoint and skipped the same steps, to the bit."""
    events = [event[:2] for event in results[f"{name}-rolled-back"]["events"]]
    assert events == [["step_skipped", 8], ["step_skipped", 9], ["step_skipped", 10], ["rolled_back", 10]]
    rolled, passed = (
        torch.load(results.folder / f"{name}-{case}.pt", weights_only=True)
        for case in ("rolled-back", "passed")
    )
    assert all(torch.equal(rolled[key], passed[key]) for key in passed)
    assert results[f"{name}-rolled-back"]["losses"][-2:] == results[f"{name}-passed"]["losses"][-2:]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_step_done_again_without_a_part_is_as_if_that_had_never_been(results: "Results", name: str) -> None:
    """Weights, losses and norms are those of a run whose batches never held it, to the bit."""
    results.assert_continues(f"{name}-left-out", f"{name}-plain", 0)
    assert [event[:2] for event in results[f"{name}-left-out"]["events"]] == [
        ["quarantined", step] for step in (1, 5, 11)
    ]


def test_a_skipped_step_is_the_same_on_every_layout(results: "Results") -> None:
    """Law 2 holds through it."""
    for name in LAYOUTS:
        bound = 2e-2 if "bfloat16" in name else 1e-5 if name == "zero3" else 1e-6
        one, two = (
            [loss for loss in results[case]["losses"] if math.isfinite(loss)] for case in (name, "accelerate")
        )
        assert max(abs(a - b) / b for a, b in zip(one, two, strict=True)) < bound, name
