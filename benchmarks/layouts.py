"""Laws 2 and 3 in full: every layout against one process, and every change from one layout to another.

Cells are engine and ZeRO stage x ranks x accumulation, on BERT-tiny by MLM and GPT-tiny by CLM, each trained
for 60 steps by what `lumbre pretrain` runs, its gradient clipped at every step. A table shows the largest
relative difference of a step's loss from one process and one micro batch, and after the stroke that of the
first step's loss and gradient, as one vector. In a table of transitions, a run that is saved at step 40 on
the layout of the line goes on to step 60 on that of the column.

    python -m benchmarks.layouts [cells|transitions|objectives|tensor ...] [--models bert-tiny]
        [--folder FOLDER]

`tensor` is layouts whose ranks share matrices (engine.tensor_parallel), compiled too, and the changes from
one of them to every layout and back.

With a folder, a second call goes on where the first was cut off. `dozen` is what CI runs. The exit status is
1 where a bound is broken.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tests.distributed.cases import run_cases
from tests.distributed.matrix import (
    ACCUMULATIONS,
    LAYOUTS,
    MODELS,
    OBJECTIVES,
    RANKS,
    Case,
    Layout,
    Verdict,
    all_cells,
    all_tensor,
    all_transitions,
    cell,
    dozen_of_cells,
    dozen_of_transitions,
    odd_cells,
    reference_of,
    some_objectives,
    transition,
    verdict,
)

MATRICES = ("cells", "transitions", "objectives", "tensor", "dozen")


def cases_of(matrix: str, models: Sequence[str]) -> list[Case]:
    """Return what a matrix is made of."""
    if matrix == "dozen":
        return [*dozen_of_cells(), *some_objectives(), *dozen_of_transitions()]
    if matrix == "objectives":
        return [cell(model, layout, 2) for model, layout in product(OBJECTIVES, LAYOUTS)]
    kind = {"cells": all_cells, "transitions": all_transitions, "tensor": all_tensor}[matrix]
    return [case for model in models for case in kind(model)]


def with_sources(cases: Sequence[Case]) -> list[Case]:
    """Return the cases, and those that they are compared with and go on from, each once."""
    halves = {one["id"]: one for one in (cell(model, layout, 2) for model in MODELS for layout in LAYOUTS)}
    sources = [halves[case["from"]] for case in cases if case.get("from") in halves]
    return list({case["id"]: case for case in [*sources, *map(reference_of, cases), *cases]}.values())


def cells_table(model: str, verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return a model's cells as a Markdown table: a line a layout, a column an accumulation."""
    lines = [f"| {model} | " + " | ".join(f"accumulation {one}" for one in ACCUMULATIONS) + " |"]
    lines.append("| --- |" + " --- |" * len(ACCUMULATIONS))
    for layout in LAYOUTS:
        row = [cell(model, layout, one)["id"] for one in ACCUMULATIONS]
        lines.append(f"| {layout} | {' | '.join(shown(verdicts[one]) for one in row)} |")
    for ranks in RANKS:
        layout = Layout("accelerate", ranks)
        row = [cell(model, layout, one, precision="float64")["id"] for one in ACCUMULATIONS]
        lines.append(f"| {layout}, float64 | {' | '.join(shown(verdicts[one]) for one in row)} |")
    for case in odd_cells(model):
        lines.append(f"| {case['id'].removeprefix(f'{model}-')} | | {shown(verdicts[case['id']])} | |")
    return lines


def transitions_table(model: str, verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return a model's transitions as a Markdown table: from the layout of the line to that of the column."""
    lines = [f"| {model}: from, to | " + " | ".join(map(str, LAYOUTS)) + " |"]
    lines.append("| --- |" + " --- |" * len(LAYOUTS))
    for old in LAYOUTS:
        row = [transition(cell(model, old, 2), new)["id"] for new in LAYOUTS]
        lines.append(f"| {old} | {' | '.join(shown(verdicts[one]) for one in row)} |")
    return lines


def list_of(cases: Sequence[Case], verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return cases that make no table, one a line."""
    lines = ["| run | losses / first step |", "| --- | --- |"]
    return [*lines, *(f"| {case['id']} | {shown(verdicts[case['id']])} |" for case in cases)]


def shown(found: Verdict) -> str:
    """Return a verdict for a table; what breaks a law stands out."""
    text = "0" if not found.losses else f"{found.losses:.1e}"
    text += f" / {found.first:.1e}" if found.first else ""
    return f"**{text}**" if found.faults else text


def summary(cases: Sequence[Case], verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return how many keep the laws, the worst by precision and stage, and every fault."""
    lines = [f"{sum(not verdicts[case['id']].faults for case in cases)} of {len(cases)} within the bounds."]
    kinds: dict[str, list[Verdict]] = {}
    for case in cases:
        of = case.get("precision", "float32")
        stage = "with stage 3" if "zero3" in case["id"] else "stages 0 to 2 and accelerate"
        kinds.setdefault(of if of == "float64" else f"{of}, {stage}", []).append(verdicts[case["id"]])
    for kind, found in kinds.items():
        losses, first = max(one.losses for one in found), max(one.first for one in found)
        lines.append(
            f"Worst in {kind}: losses {losses:.1e}" + (f", first step {first:.1e}." if first else ".")
        )
    faults = [f"- {case['id']}: {'; '.join(verdicts[case['id']].faults)}" for case in cases]
    return [*lines, *(line for line, case in zip(faults, cases, strict=True) if verdicts[case["id"]].faults)]


def report(
    matrix: str, cases: Sequence[Case], models: Sequence[str], results: Mapping[str, Any]
) -> list[str]:
    """Return a matrix's tables and summary as lines of Markdown."""
    verdicts = {case["id"]: verdict(case, results) for case in cases}
    lines = [f"## {matrix}", ""]
    if matrix in ("cells", "transitions"):
        table = cells_table if matrix == "cells" else transitions_table
        for model in models:
            lines += [*table(model, verdicts), ""]
    else:
        lines += [*list_of(cases, verdicts), ""]
    return [*lines, *(f"{line}  " for line in summary(cases, verdicts)), ""]


def main() -> int:
    """Run the matrices and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("matrices", nargs="*", default=list(MATRICES[:4]), metavar="MATRIX", choices=MATRICES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--folder", type=Path, help="where runs and results stay, to go on with")
    arguments = parser.parse_args()
    began = time.perf_counter()
    is_sound = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        for matrix in arguments.matrices:
            cases = cases_of(matrix, arguments.models)
            # Runs of the same name are shorter there.
            place = folder / ("short" if matrix == "dozen" else "full")
            results = run_cases(place, with_sources(cases), progress=sys.stderr)
            print("\n".join(report(matrix, cases, arguments.models, results)), flush=True)
            is_sound &= not any(verdict(case, results).faults for case in cases)
    seconds, load = time.perf_counter() - began, os.getloadavg()[0]
    print(f"{seconds:.0f} s on {os.cpu_count()} cores; load average {load:.1f}")
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
