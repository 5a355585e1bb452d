"""Laws 2 and 3 where ranks share matrices, on the road that users go: `engine.tensor_parallel`."""

from typing import TYPE_CHECKING, Any

import pytest

from .cases import run_cases
from .matrix import Layout, cell, goes_on, reference_of, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .matrix import Case

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def shared(model: str, engine: str, ranks: int = 2, accumulation: int = 1, **more: Any) -> "Case":
    """Return a run whose ranks share matrices two by two."""
    return cell(model, Layout(engine, ranks), accumulation, short=True, tensor_parallel=2, **more)


BERT, LLAMA = shared("bert-tiny", "zero1"), shared("llama-tiny", "zero2", accumulation=2)
ON_FOUR = shared("llama-tiny", "zero1", ranks=4)
ROUNDED = shared("gpt-tiny", "zero1", precision="bfloat16")
ROUNDED_ON = goes_on(ROUNDED, ROUNDED)
PLAIN = cell("bert-tiny", Layout("zero2", 2), 1, short=True)
CELLS = [
    BERT,
    LLAMA,
    ON_FOUR,
    shared("bert-tiny", "zero0", accumulation=2),
    shared("gpt-tiny", "zero2"),
    shared("llama-tiny", "zero0"),
    shared("head-by-head", "zero1"),
    shared("span-corruption", "zero2"),
    shared("wide-replaced-token", "zero1"),
    shared("gpt-tiny", "zero1", recompute="selective"),
    shared("gpt-tiny", "zero2", offload="cpu"),
    shared("gpt-tiny", "zero1", compile="trunk"),
    shared("bert-tiny", "zero0", ranks=4),
    shared("bert-tiny", "zero2", ranks=4),
    shared("llama-tiny", "zero1", ranks=4, sequence_parallel=2),
]
"""Each model has what is shared out in another way: queries, keys and values in one matrix, as many keys as
queries and fewer, gates, norms of each head, biases by head, attention to an encoder, two models in one."""
TRANSITIONS = [
    *(goes_on(case, case) for case in (BERT, LLAMA, ON_FOUR)),
    goes_on(BERT, cell("bert-tiny", Layout("zero2", 1), 1, short=True)),
    goes_on(BERT, cell("bert-tiny", Layout("zero3", 2), 1, short=True)),
    goes_on(BERT, shared("bert-tiny", "zero0", ranks=4)),
    goes_on(LLAMA, cell("llama-tiny", Layout("accelerate", 2), 2, short=True)),
    goes_on(ON_FOUR, shared("llama-tiny", "zero2")),
    goes_on(PLAIN, shared("bert-tiny", "zero1")),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> "Mapping[str, Any]":
    """Run every case once, and those that a case is compared with."""
    unbroken = [*CELLS, ROUNDED, PLAIN, *map(reference_of, [*CELLS, ROUNDED])]
    cases = {case["id"]: case for case in [*unbroken, *TRANSITIONS, ROUNDED_ON]}
    return run_cases(tmp_path_factory.mktemp("tensor"), list(cases.values()))


@pytest.mark.parametrize("case", CELLS, ids=lambda case: case["id"])
def test_ranks_that_share_matrices_follow_one_process(results: "Mapping[str, Any]", case: "Case") -> None:
    """Loss and gradient of the first step, and all losses, within law 2's bounds, always clipped."""
    assert verdict(case, results).faults == ()
    assert results[case["id"]]["clipped"] == case["steps"]
    assert results[case["id"]]["norm_difference"] < 5e-6


@pytest.mark.parametrize("case", TRANSITIONS, ids=lambda case: case["id"])
def test_a_run_goes_on_with_matrices_shared_and_whole(results: "Mapping[str, Any]", case: "Case") -> None:
    """State restored to the bit, losses within law 2's bounds; on the same layout to the bit (law 3)."""
    assert verdict(case, results).faults == ()


def test_shared_matrices_in_bfloat16_follow_whole_ones_and_resume_to_the_bit(
    results: "Mapping[str, Any]",
) -> None:
    """Sums over ranks are rounded too; the float32 master weights come back (law 3)."""
    found, resumed = results[ROUNDED["id"]], results[ROUNDED_ON["id"]]
    assert verdict(ROUNDED, results).losses < 1e-3
    assert resumed["losses"] == found["losses"][resumed["start"] :]
    assert found["faults"] == resumed["faults"] == []
