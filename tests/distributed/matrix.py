"""The layouts that laws 2 and 3 speak of: cells, transitions, coverings of their pairs, and the bounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

ENGINES = ("zero0", "zero1", "zero2", "zero3", "accelerate")
RANKS = (1, 2, 4)
ACCUMULATIONS = (1, 2, 4)
MODELS = ("bert-tiny", "gpt-tiny")
"""BERT learns by MLM, whose targets are a random number; GPT by CLM."""
OBJECTIVES = ("span-corruption", "replaced-token", "next-sentence")
"""What other models learn by."""
STEPS, SAVED = 60, 40
SHORT_STEPS, SHORT_SAVED = 20, 15
"""What a case is that has to be done soon."""

SHARED = ("precision", "short")
"""What a case has in common with those that it is compared with or goes on from."""

Case = dict[str, Any]
"""One run, as tests/distributed/pretraining.py reads it."""


@dataclass(frozen=True)
class Layout:
    """An engine on so many ranks."""

    engine: str
    ranks: int

    def __str__(self) -> str:
        return f"{self.engine}-{self.ranks}"


LAYOUTS = [Layout(engine, ranks) for engine, ranks in product(ENGINES, RANKS)]


def cell(model: str, layout: Layout, accumulation: int, **more: Any) -> Case:
    """Return an unbroken run of one layout.

    `more` are precision, threads, loader_workers, tensor_parallel, sequence_parallel, offload,
    recompute, compile and short.
    """
    ending = "".join(f"-{key}-{value}" for key, value in more.items() if key != "short")
    short = more.get("short", False)
    return {
        "id": f"{model}-{layout}-x{accumulation}{ending}",
        "model": model,
        "engine": layout.engine,
        "ranks": layout.ranks,
        "accumulation": accumulation,
        "steps": SHORT_STEPS if short else STEPS,
        "saved": SHORT_SAVED if short else SAVED,
        **more,
    }


def transition(source: Case, to: Layout) -> Case:
    """Return the run that goes on from the middle of another on a layout of its own."""
    accumulation = source["accumulation"]
    target = cell(source["model"], to, accumulation, **{key: source[key] for key in SHARED if key in source})
    return {**target, "id": f"{source['id']}-to-{to}-x{accumulation}", "from": source["id"]}


def goes_on(source: Case, case: Case) -> Case:
    """Return the case as one that goes on from the middle of another."""
    return {**case, "id": f"{case['id']}-from-{source['id']}", "from": source["id"]}


def reference(model: str, **more: Any) -> Case:
    """Return the run that others are compared with: one process, each step one micro batch."""
    return cell(model, Layout("accelerate", 1), 1, **more)


def reference_of(case: Case) -> Case:
    """Return the run that a case is compared with."""
    return reference(case["model"], **{key: case[key] for key in SHARED if key in case})


def covering(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return rows in which every two values of two factors meet: each row the one that adds most pairs."""
    rows = list(product(*factors))
    wanted = set().union(*map(pairs, rows))
    found = []
    while wanted:
        best = max(rows, key=lambda row: len(wanted & pairs(row)))
        found.append(best)
        wanted -= pairs(best)
    return found


def pairs(row: Sequence[Any]) -> set[tuple[tuple[int, Any], ...]]:
    """Return every two places of a row with their values."""
    return set(combinations(enumerate(row), 2))


def dozen_of_cells() -> list[Case]:
    """Return cells in which engine, ranks, accumulation and model meet pairwise."""
    rows = covering(ENGINES, RANKS, ACCUMULATIONS, MODELS)
    return [
        cell(model, Layout(engine, ranks), accumulation, short=True)
        for engine, ranks, accumulation, model in rows
    ]


def dozen_of_transitions() -> list[Case]:
    """Return transitions in which old and new engine, old and new ranks meet pairwise.

    They go on from the cells of `dozen_of_cells`.
    """
    cells = {Layout(case["engine"], case["ranks"]): case for case in reversed(dozen_of_cells())}
    rows = covering(ENGINES, ENGINES, RANKS, RANKS)
    return [transition(cells[Layout(old, n)], Layout(new, m)) for old, new, n, m in rows]


def some_objectives() -> list[Case]:
    """Return every other objective in a layout of its own."""
    layouts = [Layout("zero1", 4), Layout("zero3", 2), Layout("zero2", 2)]
    return [cell(model, layout, 2, short=True) for model, layout in zip(OBJECTIVES, layouts, strict=True)]


def all_cells(model: str) -> Iterator[Case]:
    """Yield the reference, every layout with every accumulation, in float64 too, and the odd ones."""
    for layout, accumulation in product(LAYOUTS, ACCUMULATIONS):
        yield cell(model, layout, accumulation)
    for ranks, accumulation in product(RANKS, ACCUMULATIONS):
        yield cell(model, Layout("accelerate", ranks), accumulation, precision="float64")
    yield from odd_cells(model)


def odd_cells(model: str) -> list[Case]:
    """Return cells that differ in what else a layout is: threads, and processes that make the batches."""
    return [
        cell(model, Layout("accelerate", 1), 2, threads=2),
        cell(model, Layout("zero2", 2), 2, loader_workers=2),
    ]


def all_transitions(model: str) -> Iterator[Case]:
    """Yield every transition from layout to layout, each from the same cell of the old one."""
    for old, new in product(LAYOUTS, LAYOUTS):
        yield transition(cell(model, old, 2), new)


def all_tensor(model: str) -> list[Case]:
    """Return layouts whose ranks share matrices two by two, and what goes on from one of them or to it."""
    stages, counts = ("zero0", "zero1", "zero2"), (2, 4)
    cells = [cell(model, Layout(*layout), 2, tensor_parallel=2) for layout in product(stages, counts)]
    compiled = cell(model, Layout("zero1", 2), 2, tensor_parallel=2, compile=True)
    one, plain = cells[2], [cell(model, layout, 2) for layout in LAYOUTS]
    leave, come = [goes_on(one, case) for case in [*plain, *cells]], [goes_on(case, one) for case in plain]
    return [*cells, compiled, *leave, *come]


def bounds(case: Case) -> tuple[float, float]:
    """Return law 2's bounds of a case, relative: each step's loss, and the first step's loss and gradient.

    In float64 the law bounds the first step alone; the curve is held to float32's bound.
    """
    if case.get("precision") == "float64":
        return 1e-6, 1e-12
    stages = [case["engine"], *case.get("from", "").split("-")]
    return (1e-5 if "zero3" in stages else 1e-6), 1e-6


@dataclass(frozen=True)
class Verdict:
    """How far a case is from its reference, and what of it breaks a law."""

    losses: float
    """The largest relative difference of a step's loss, the evaluation's at the end among them."""
    first: float
    """That of the first step's loss and, as one vector, gradient; 0 for a run that goes on from another."""
    faults: tuple[str, ...]


def verdict(case: Case, results: Mapping[str, Any]) -> Verdict:
    """Hold what a case came to against the laws."""
    found, expected = results[case["id"]], results[reference_of(case)["id"]]
    start = found["start"]
    losses = max(map(relative, found["losses"], expected["losses"][start:]))
    losses = max(losses, relative(found["evaluation"], expected["evaluation"]))
    first = 0.0
    faults = []
    if len(found["losses"]) != case["steps"] - start:
        faults.append(f"{len(found['losses'])} steps after step {start}")
    if "from" not in case:
        first = max(relative(found["losses"][0], expected["losses"][0]), found["gradient_difference"])
    elif start != case["saved"]:
        faults.append(f"went on from step {start}")
    of_losses, of_first = bounds(case)
    if not losses <= of_losses:
        faults.append(f"losses differ by {losses:.1e}")
    if not first <= of_first:
        faults.append(f"the first step differs by {first:.1e}")
    if (
        "from" in case
        and same_layout(case, results)
        and found["losses"] != results[case["from"]]["losses"][start:]
    ):
        faults.append("is not its own unbroken run to the bit")
    return Verdict(losses, first, (*faults, *found["faults"]))


def same_layout(case: Case, results: Mapping[str, Any]) -> bool:
    """Whether a run goes on on the layout that it was saved on."""
    keys = ("engine", "ranks", "accumulation", "tensor_parallel", "sequence_parallel")
    return all(case.get(key) == results[case["from"]]["case"].get(key) for key in keys)


def relative(found: float, expected: float) -> float:
    """Return the relative difference, infinite where there is no number."""
    difference = abs(found - expected) / abs(expected)
    return difference if difference == difference else float("inf")
