"""`engine.compile`: the generated kernels follow the same curve."""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

MODELS = ("encoder", "mixture", "encoder-decoder")
CASES: list[dict[str, Any]] = [
    *({"id": model, "engine": "accelerate", "micro": 8, "model": model} for model in MODELS),
    *(
        {"id": f"{model}-compiled", "engine": "accelerate", "micro": 8, "model": model, "compile": True}
        for model in MODELS
    ),
    {
        "id": "encoder-recomputed-compiled",
        "engine": "accelerate",
        "micro": 8,
        "compile": True,
        "activation_checkpointing": 1,
    },
    {"id": "encoder-zero2-compiled", "engine": "deepspeed", "stage": 2, "micro": 8, "compile": True},
    *(
        {"id": f"{model}-trunk", "engine": "accelerate", "micro": 8, "model": model, "compile": "trunk"}
        for model in MODELS
    ),
    {
        "id": "encoder-recomputed-trunk",
        "engine": "accelerate",
        "micro": 8,
        "compile": "trunk",
        "activation_checkpointing": 1,
    },
]
PAIRS: list[dict[str, Any]] = [
    {"id": "encoder-zero2-trunk", "engine": "deepspeed", "stage": 2, "micro": 4, "compile": "trunk"},
    {"id": "encoder-zero3-trunk", "engine": "deepspeed", "stage": 3, "micro": 4, "compile": "trunk"},
    {
        "id": "encoder-sequence-trunk",
        "engine": "accelerate",
        "micro": 8,
        "compile": "trunk",
        "sequence_parallel": 2,
    },
]
COMPILED = [case["id"] for case in [*CASES, *PAIRS] if case.get("compile")]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run the cases of one process, and those of two."""
    return run_groups({1: CASES, 2: PAIRS}, "")


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_compiled_blocks_change_no_loss(results: "Results", case: str) -> None:
    plain = next(model for model in reversed(MODELS) if case.startswith(model))
    assert results.difference(case, plain) < 1e-6
    assert results.difference(case, plain, "norms") < 1e-5
    assert results[case]["graphs"] > 0
    assert results[plain]["graphs"] == 0
