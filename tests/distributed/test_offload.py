"""Laws 2 and 3 where optimizer state and parameters are kept in host memory."""

from typing import TYPE_CHECKING, Any

import pytest

from .test_layouts import SAVED

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

pytestmark = pytest.mark.slow

PLACES: dict[str, dict[str, Any]] = {
    "zero1-optimizer": {"stage": 1, "offload": {"optimizer": "cpu"}},
    "zero2-optimizer": {"stage": 2, "offload": {"optimizer": "cpu"}},
    "zero3-optimizer": {"stage": 3, "offload": {"optimizer": "cpu"}},
    "zero3-parameters": {"stage": 3, "offload": {"parameters": "cpu"}},
    "zero3-both": {"stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
}
ON_THE_DEVICE: dict[str, dict[str, Any]] = {f"zero{stage}": {"stage": stage} for stage in (1, 2, 3)}
PRECISIONS = ("float32", "bfloat16")
FROZEN: dict[str, Any] = {"method": {"type": "frozen", "trainable_layers": 1}}


def case(name: str, **more: Any) -> dict[str, Any]:
    """Return a case on the layout that its name begins with, or ends with after "-to-"."""
    layout = name.split(":")[0].split("-to-")[-1]
    return {"id": name, "engine": "deepspeed", **(PLACES | ON_THE_DEVICE)[layout], **more}


MOVES = [
    *(("zero1-optimizer", "zero3-both"), ("zero3-both", "zero2-optimizer"), ("zero3-parameters", "zero1")),
    *(("zero2", "zero3-optimizer"), ("zero2-optimizer", "zero3")),
]
"""From and to offload, another stage each."""
TWO_RANKS = [
    # Stage 3 first: it leaves a linear map of its own in torch, which rounds otherwise in bfloat16.
    case("zero3-both:frozen", **FROZEN),
    *(case(f"{name}:{precision}", precision=precision) for name in PLACES for precision in PRECISIONS),
    *(case(f"{name}:bfloat16", precision="bfloat16") for name in ON_THE_DEVICE),
    case("zero2:float32"),
    *(
        case(f"{name}:{precision}-resumed", precision=precision, **{"from": [f"{name}:{precision}", SAVED]})
        for name in PLACES
        for precision in PRECISIONS
    ),
    *(case(f"{name}:rolled-back", used=True, **{"from": [f"{name}:float32", SAVED]}) for name in PLACES),
    *(case(f"{old}-to-{new}", **{"from": [f"{old}:float32", SAVED]}) for old, new in MOVES),
]
ALONE = [
    {"id": "alone", "micro": 8, "engine": "accelerate"},
    {"id": "alone:frozen", "micro": 8, "engine": "accelerate", **FROZEN},
    case("zero2-optimizer-to-zero3-both:1", micro=4, **{"from": ["zero2-optimizer:float32", SAVED]}),
    case("zero3-both-to-zero1-optimizer:1", micro=4, **{"from": ["zero3-both:float32", SAVED]}),
]
MOVED = [case["id"] for case in [*TWO_RANKS, *ALONE] if "-to-" in case["id"]]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run both groups on the CPU."""
    return run_groups({2: TWO_RANKS, 1: ALONE}, "")


def bound(name: str) -> float:
    """Return law 2's bound on losses."""
    return 1e-5 if "zero3" in name else 1e-6


@pytest.mark.parametrize("name", PLACES)
def test_offload_does_not_matter(results: "Results", name: str) -> None:
    assert results.difference(f"{name}:float32", "alone") < bound(name)
    assert results.difference(f"{name}:float32", "alone", "norms", first=1) < 1e-6


@pytest.mark.parametrize("name", PLACES)
def test_offload_does_not_matter_in_bfloat16(results: "Results", name: str) -> None:
    """Sums over micro batches stay float32 where gradients wait in host memory, too."""
    assert results.difference(f"{name}:bfloat16", f"{name.split('-')[0]}:bfloat16") < 1e-4


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PLACES)
def test_offloaded_state_resumes_bit_identical(results: "Results", name: str, precision: str) -> None:
    results.assert_continues(f"{name}:{precision}-resumed", f"{name}:{precision}", SAVED)


@pytest.mark.parametrize("name", PLACES)
def test_restoring_leaves_nothing_of_what_was_offloaded(results: "Results", name: str) -> None:
    results.assert_continues(f"{name}:rolled-back", f"{name}:float32", SAVED)


@pytest.mark.parametrize("name", MOVED)
def test_resume_with_and_without_offload_is_the_same_run(results: "Results", name: str) -> None:
    assert results[name]["start"] == SAVED
    assert results.difference(name, "alone") < bound(name)


def test_what_is_frozen_stays_where_parameters_wait_elsewhere(results: "Results") -> None:
    assert results["zero3-both:frozen"]["kept"]
    assert results.difference("zero3-both:frozen", "alone:frozen") < 1e-5
