"""Laws 2 and 3 for LoRA's updates, whose base every stage holds frozen in its own way."""

from typing import TYPE_CHECKING, Any

import pytest

from .test_layouts import LAYOUTS, SAVED

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

pytestmark = pytest.mark.slow

LORA: dict[str, Any] = {"method": {"type": "lora", "rank": 2}, "layer_decay": 0.5}
TWO_RANKS = [
    *({"id": name, **LORA, **layout} for name, layout in LAYOUTS.items()),
    *({"id": f"{name}-resumed", "from": [name, SAVED], **LORA, **layout} for name, layout in LAYOUTS.items()),
]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run both groups on the CPU."""
    return run_groups({2: TWO_RANKS, 1: [{"id": "alone", "micro": 8, "engine": "accelerate", **LORA}]}, "")


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_does_not_matter_to_updates(results: "Results", name: str) -> None:
    assert results.difference(name, "alone") < (1e-5 if name == "zero3" else 1e-6)
    assert results.difference(name, "alone", "norms", first=1) < 1e-6


@pytest.mark.parametrize("name", LAYOUTS)
def test_updates_resume_bit_identical_beside_a_base_that_stays(results: "Results", name: str) -> None:
    results.assert_continues(f"{name}-resumed", name, SAVED)
    assert results[name]["kept"]
    assert results[f"{name}-resumed"]["kept"]
