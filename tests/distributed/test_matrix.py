"""Laws 2 and 3 on the road that users go: a covering of all layouts, and of all changes from one to another.

The full matrices are `python -m benchmarks.layouts`.
"""

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from .cases import run_cases
from .matrix import (
    ACCUMULATIONS,
    ENGINES,
    MODELS,
    RANKS,
    covering,
    dozen_of_cells,
    dozen_of_transitions,
    pairs,
    reference_of,
    some_objectives,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

CELLS = [*dozen_of_cells(), *some_objectives()]
TRANSITIONS = dozen_of_transitions()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run every case once, those that a case is compared with too."""
    cases = {case["id"]: case for case in [*CELLS, *map(reference_of, CELLS), *TRANSITIONS]}
    return run_cases(tmp_path_factory.mktemp("matrix"), list(cases.values()))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CELLS, ids=lambda case: case["id"])
def test_layout_does_not_matter(results: dict[str, Any], case: dict[str, Any]) -> None:
    """Loss and gradient of the first step, and the losses of all, within law 2's bounds, always clipped."""
    assert verdict(case, results).faults == ()
    assert results[case["id"]]["clipped"] == case["steps"]
    assert results[case["id"]]["norm_difference"] < 5e-6


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", TRANSITIONS, ids=lambda case: case["id"])
def test_a_run_goes_on_on_any_layout(results: dict[str, Any], case: dict[str, Any]) -> None:
    """State restored to the bit, losses within law 2's bounds, and nothing more on disk (law 3)."""
    assert verdict(case, results).faults == ()


@pytest.mark.parametrize(
    "factors", [(ENGINES, RANKS, ACCUMULATIONS, MODELS), (ENGINES, ENGINES, RANKS, RANKS)], ids=str
)
def test_the_covering_has_all_pairs(factors: "Sequence[Sequence[Any]]") -> None:
    """Each two values of two factors meet, in about as few rows as can be."""
    rows = covering(*factors)
    met = set().union(*map(pairs, rows))
    assert met == set().union(*map(pairs, product(*factors)))
    first, second = sorted(map(len, factors))[-2:]
    assert len(rows) <= first * second + 2


def test_every_layout_is_gone_on_from_and_to() -> None:
    """What the covering of transitions asks for is what the cases are."""
    sources = {case["id"]: case for case in CELLS}
    found = {
        (sources[case["from"]]["engine"], case["engine"], sources[case["from"]]["ranks"], case["ranks"])
        for case in TRANSITIONS
    }
    assert found == set(covering(ENGINES, ENGINES, RANKS, RANKS))
