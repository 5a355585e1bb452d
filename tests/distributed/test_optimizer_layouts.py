"""Laws 2 and 3 for optimizers that look at whole tensors, of which ZeRO gives each rank pieces."""

from typing import TYPE_CHECKING, Any

import pytest

from .test_layouts import LAYOUTS, SAVED

if TYPE_CHECKING:
    from .conftest import Results, RunGroups

pytestmark = pytest.mark.slow

MUON: dict[str, Any] = {"optimizer": {"type": "muon", "adamw_learning_rate": 1e-3}}
# A rate for each block is a group of parameters for each, which two ranks cut in the midst of a matrix.
KINDS: dict[str, dict[str, Any]] = {
    "muon": MUON,
    "muon-experts": {**MUON, "model": "mixture"},
    "muon-shared-heads": {**MUON, "model": "four-heads", "layer_decay": 0.7},
    "muon-offloaded": {**MUON, "offload": {"optimizer": "cpu"}},
    "muon-bfloat16": {**MUON, "precision": "bfloat16"},
    "lamb": {"optimizer": {"type": "lamb", "learning_rate": 5e-2}, "layer_decay": 0.7},
    "lion": {"optimizer": {"type": "lion", "learning_rate": 3e-4}},
}
CHANGES = [("zero1", "zero3"), ("zero3", "accelerate"), ("accelerate", "zero2"), ("zero2", "zero0")]
ALONE_CHANGES = [("zero3", "accelerate"), ("zero2", "zero1"), ("accelerate", "zero3")]
CASES = [
    (name, kind) for kind in KINDS for name in (LAYOUTS if kind in ("muon", "lamb") else ("zero2", "zero3"))
]
TWO_RANKS = sorted(
    [
        *({"id": f"{name}-2-{kind}", **KINDS[kind], **LAYOUTS[name]} for name, kind in CASES),
        *(
            {"id": f"{name}-2-{kind}-resumed", "from": [f"{name}-2-{kind}", SAVED], **KINDS[kind], **layout}
            for kind in ("muon", "lamb")
            for name, layout in LAYOUTS.items()
        ),
    ],
    # Last: once DeepSpeed has run stage 3, its linear map stays in the process.
    key=lambda case: case.get("stage") == 3,
) + [
    {"id": f"{old}-2-to-{new}-2-{kind}", "from": [f"{old}-2-{kind}", SAVED], **KINDS[kind], **LAYOUTS[new]}
    for kind in ("muon", "lamb")
    for old, new in CHANGES
]
ALONE_KINDS = [kind for kind in KINDS if kind not in ("muon-offloaded", "muon-bfloat16")]
ALONE = [
    *({"id": f"alone-{kind}", "micro": 8, "engine": "accelerate", **KINDS[kind]} for kind in ALONE_KINDS),
    *(
        {
            "id": f"{old}-2-to-{new}-1-{kind}",
            "from": [f"{old}-2-{kind}", SAVED],
            "micro": 4,
            **KINDS[kind],
            **LAYOUTS[new],
        }
        for kind in ("muon", "lamb")
        for old, new in ALONE_CHANGES
    ),
]


@pytest.fixture(scope="module")
def results(run_groups: "RunGroups") -> "Results":
    """Run both groups on the CPU."""
    return run_groups({2: TWO_RANKS, 1: ALONE}, "")


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_layout_does_not_matter_to_whole_tensors(results: "Results", name: str, kind: str) -> None:
    """Losses and the first gradient's norm are those of one process (law 2)."""
    case, alone = f"{name}-2-{kind}", f"alone-{kind}" if kind in ALONE_KINDS else "alone-muon"
    if kind == "muon-bfloat16":
        assert results.difference(case, alone) < 2e-2
        return
    assert results.difference(case, alone) < (1e-5 if name == "zero3" else 1e-6)
    assert results.difference(case, alone, "norms", first=1) < 1e-6


@pytest.mark.parametrize("kind", ["muon", "lamb"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_pieces_resume_bit_identical(results: "Results", name: str, kind: str) -> None:
    results.assert_continues(f"{name}-2-{kind}-resumed", f"{name}-2-{kind}", SAVED)


@pytest.mark.parametrize("case", [case["id"] for case in [*TWO_RANKS, *ALONE] if "-to-" in case["id"]])
def test_a_run_goes_on_in_other_pieces(results: "Results", case: str) -> None:
    """Another engine, stage or world takes over the state of every kind of parameter (law 3)."""
    assert results[case]["start"] == SAVED
    kind = case.rpartition("-")[2]
    assert results.difference(case, f"alone-{kind}") < (1e-5 if "zero3" in case else 1e-6)


@pytest.mark.parametrize("kind", ALONE_KINDS)
def test_another_optimizer_is_another_run(results: "Results", kind: str) -> None:
    """What is compared above is not AdamW everywhere."""
    others = [other for other in ALONE_KINDS if other.partition("-")[0] != kind.partition("-")[0]]
    assert all(results.difference(f"alone-{kind}", f"alone-{other}") > 1e-4 for other in others)
