"""Two fine-tuned runs against each other: the difference, and how likely it is by chance."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lumbre import distributed
from lumbre.errors import RunFolderError

from .run import RESULT_FILE

DRAWS = 10_000
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Side:
    """One of the runs."""

    name: str
    metric: str
    by_seed: dict[int, float]
    """The metric of each seed's run; of a grid, at the setting that was best on validation."""
    scores_SN: np.ndarray | None
    """Each test example's score by seed; None where the task has no such thing."""
    examples: list[Any]
    """The examples' inputs and targets."""


@dataclass(frozen=True)
class Verdict:
    """What a test says of the difference B - A."""

    test: str
    difference: float
    p: float
    """Probability of a difference as large by chance, two-sided."""


def compare(a: Path, b: Path) -> list[Verdict]:
    """Print both runs' results and the tests between them; return what the tests say.

    Raises RunFolderError for a folder without results, or results that cannot be compared.
    """
    sides = read(a), read(b)
    if sides[0].metric != sides[1].metric:
        names = " and ".join(f"{side.name} is told by {side.metric}" for side in sides)
        raise RunFolderError(f"{a}, {b}: cannot be compared: {names}")
    verdicts = [one for one in (over_seeds(*sides), over_examples(*sides)) if one is not None]
    _show(sides, verdicts)
    return verdicts


def read(folder: Path) -> Side:
    """Return what a run came to."""
    try:
        results = json.loads((folder / RESULT_FILE).read_bytes())
        metric, rows = results["metrics"][0], results["rows"]
    except (OSError, ValueError, KeyError) as error:
        fault = f"has no {RESULT_FILE} of a complete fine-tuning run"
        raise RunFolderError(f"{folder}: {fault}") from error
    # With a comparison inside it, a run is told by its pretrained side.
    model = "pretrained" if any(row["model"] == "pretrained" for row in rows) else rows[0]["model"]
    chosen = results.get("chosen", {}).get(model, {})
    its = [row for row in rows if row["model"] == model and row.get("point", {}) == chosen]
    files = [folder / row.get("run", "") / f"predictions-{row['split']}.jsonl" for row in its]
    lines = [
        [json.loads(text) for text in file.read_bytes().splitlines()] for file in files if file.is_file()
    ]
    scored = len(lines) == len(its) and all("score" in one for run in lines for one in run)
    scores = np.array([[one["score"] for one in run] for run in lines]) if scored else None
    examples = [(one.get("id"), one["input"], one.get("target")) for one in lines[0]] if scored else []
    return Side(str(folder), metric, {row["seed"]: row[metric] for row in its}, scores, examples)


def over_seeds(a: Side, b: Side) -> Verdict | None:
    """Return the t-test over seeds: paired where both have the same, else Welch's; None for one seed."""
    from scipy import stats

    shared = sorted(set(a.by_seed) & set(b.by_seed))
    if len(shared) == len(a.by_seed) == len(b.by_seed):
        name, of = f"paired t-test over {len(shared)} seeds", shared
        pairs = [a.by_seed[seed] for seed in of], [b.by_seed[seed] for seed in of]
    else:
        name = f"Welch's t-test, {len(a.by_seed)} and {len(b.by_seed)} seeds"
        pairs = list(a.by_seed.values()), list(b.by_seed.values())
    if min(map(len, pairs)) < 2:
        return None
    difference = statistics.mean(pairs[1]) - statistics.mean(pairs[0])
    paired = name.startswith("paired")
    if paired and np.ptp(np.subtract(*pairs)) == 0:
        return Verdict(name, difference, 1.0 if difference == 0 else 0.0)
    test = stats.ttest_rel(*pairs) if paired else stats.ttest_ind(*pairs, equal_var=False)
    return Verdict(name, difference, float(test.pvalue))


def over_examples(a: Side, b: Side) -> Verdict | None:
    """Return the approximate randomization test over test examples; None where they are not the same.

    An example's score is its mean over seeds; under chance either run may have made either score (Noreen,
    1989; Dror et al., 2018, aclanthology.org/P18-1128).
    """
    if a.scores_SN is None or b.scores_SN is None or a.examples != b.examples:
        return None
    differences_N = b.scores_SN.mean(axis=0) - a.scores_SN.mean(axis=0)
    seen = abs(float(differences_N.mean()))
    chance = distributed.random(0, distributed.Stream.ORDER, 0)
    as_large = 0
    for _ in range(DRAWS // 1000):
        signs = chance.choice(np.array([-1.0, 1.0]), size=(1000, len(differences_N)))
        as_large += int((np.abs(signs @ differences_N) / len(differences_N) >= seen - 1e-12).sum())
    name = f"randomization over {len(differences_N):,} examples"
    return Verdict(name, float(differences_N.mean()), (as_large + 1) / (DRAWS + 1))


def _show(sides: Sequence[Side], verdicts: Sequence[Verdict]) -> None:
    table = Table(title=f"{sides[0].metric}", title_justify="left")
    for name in ("run", "seeds", "mean", "std"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for side in sides:
        values = list(side.by_seed.values())
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "–"
        table.add_row(side.name, str(len(values)), f"{statistics.mean(values):.4f}", spread)
    console = Console(highlight=False)
    console.print(table)
    for one in verdicts:
        if math.isnan(one.p):
            continue
        says = "a difference" if one.p < SIGNIFICANT else "no sign of a difference"
        console.print(f"{one.test}: {one.difference:+.4f}, p = {one.p:.4f}: {says}")
    if not verdicts:
        console.print("One seed each, and no scores by example: nothing can be said about chance.")
