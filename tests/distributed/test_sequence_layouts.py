"""Laws 2 and 3 where ranks share rows: every engine and stage, on two ranks and on four."""

from typing import TYPE_CHECKING, Any

import pytest

from .test_layouts import LAYOUTS, SAVED

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

pytestmark = pytest.mark.slow

SHARED: dict[str, Any] = {"sequence_parallel": 2, "micro": 4}
CHOICES: dict[str, dict[str, Any]] = {
    "pairs": {"model": "pairs"},
    "mixture": {"model": "mixture"},
    "encoder-decoder": {"model": "encoder-decoder"},
    "selective": {"activation_checkpointing": "selective"},
    "every-block": {"activation_checkpointing": 1},
    "compiled": {"compile": True},
}
SERVED = [
    *((layout, choice) for layout in ("accelerate", "zero2") for choice in CHOICES if choice != "compiled"),
    *(("zero3", choice) for choice in ("pairs", "mixture", "encoder-decoder", "every-block")),
    ("accelerate", "compiled"),
]
FOUR_HEADS = {"model": "four-heads"}
ALONE = [
    {"id": "alone", "micro": 8, "engine": "accelerate"},
    {"id": "alone-four-heads", "micro": 8, "engine": "accelerate", **FOUR_HEADS},
    {"id": "alone-float64", "micro": 8, "engine": "accelerate", "precision": "float64"},
    *(
        {"id": f"alone-{choice}", "micro": 8, "engine": "accelerate", **CHOICES[choice]}
        for choice in CHOICES
        if "model" in CHOICES[choice]
    ),
]
TWO_RANKS = [
    # First: once DeepSpeed has run stage 3, its linear map stays in the process.
    *({"id": f"{name}-2-{choice}", **SHARED, **LAYOUTS[name], **CHOICES[choice]} for name, choice in SERVED),
    *({"id": f"{name}-2", **SHARED, **layout} for name, layout in LAYOUTS.items()),
    *(
        {"id": f"{name}-2-resumed", "from": [f"{name}-2", SAVED], **SHARED, **layout}
        for name, layout in LAYOUTS.items()
    ),
    {"id": "float64-2", **SHARED, "engine": "accelerate", "precision": "float64"},
    {"id": "bfloat16-2", **SHARED, **LAYOUTS["zero2"], "precision": "bfloat16"},
    {"id": "alone-to-zero1-2", "from": ["alone", SAVED], **SHARED, **LAYOUTS["zero1"]},
    {"id": "zero3-2-to-unshared-zero2", "from": ["zero3-2", SAVED], "micro": 4, **LAYOUTS["zero2"]},
]
FOUR_RANKS = [
    *({"id": f"{name}-2x2", **SHARED, **LAYOUTS[name]} for name in ("accelerate", "zero1", "zero3")),
    *(
        {"id": f"{name}-4", **FOUR_HEADS, **LAYOUTS[name], "sequence_parallel": 4}
        for name in ("zero2", "zero3")
    ),
    {"id": "zero2-2-to-zero3-2x2", "from": ["zero2-2", SAVED], **SHARED, **LAYOUTS["zero3"]},
    {"id": "zero3-2-to-unshared-4", "from": ["zero3-2", SAVED], "micro": 2, **LAYOUTS["zero1"]},
]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run the three groups on the CPU."""
    return run_groups({1: ALONE, 2: TWO_RANKS, 4: FOUR_RANKS}, "")


def reference(case: str) -> str:
    """Return the run of one process on whole rows that a case is to repeat."""
    return next((one["id"] for one in ALONE[1:] if case.endswith(one["id"].removeprefix("alone"))), "alone")


@pytest.mark.parametrize(
    "case", [case["id"] for case in [*TWO_RANKS, *FOUR_RANKS] if "bfloat16" not in case["id"]]
)
def test_ranks_that_share_rows_follow_one_process(results: "Results", case: str) -> None:
    """Losses and the first gradient's norm agree (law 2, float32), resumed elsewhere or not (law 3)."""
    other = "alone-four-heads" if case.endswith("-4") and "unshared" not in case else reference(case)
    assert results.difference(case, other) < (1e-5 if "zero3" in case else 1e-6)
    assert results.difference(case, other, "norms", first=1) < 1e-6


def test_ranks_that_share_rows_follow_one_process_in_float64(results: "Results") -> None:
    for key in ("losses", "norms"):
        assert results.difference("float64-2", "alone-float64", key, first=1) < 1e-12


def test_ranks_that_share_rows_follow_float32_in_bfloat16(results: "Results") -> None:
    assert results.difference("bfloat16-2", "alone") < 2e-2


@pytest.mark.parametrize("name", LAYOUTS)
def test_resume_is_bit_identical_where_ranks_share_rows(results: "Results", name: str) -> None:
    results.assert_continues(f"{name}-2-resumed", f"{name}-2", SAVED)
