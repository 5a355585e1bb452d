"""The numbers behind the curves, thinned to what a screen can show without hiding an extreme."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lumbre.report.columns import OVERHEAD, SECONDS, Floats
from lumbre.report.run import Run
from lumbre.tracking.console import MEASURED

MOST_BUCKETS = 600
"""Stretches that a longer line is cut into; each keeps its least and its greatest value."""
MOST_TICKS = 400
AXES = ("tokens", "samples", SECONDS)
NO_CURVES = {*AXES, "step", "time", "step_seconds", "data_seconds", "overhead_seconds", "node", "rank"}
FIRST = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "peak_memory_bytes", OVERHEAD)
TITLES = {
    "loss": "Loss, nats per target token",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
    "mfu": "MFU, % of the peak",
    "peak_memory_bytes": "Peak memory, GiB",
    OVERHEAD: "Waiting and overhead, % of a step",
}
SCALES = {"mfu": 100.0, "peak_memory_bytes": 2.0**-30, OVERHEAD: 100.0}
EXACT = {"learning_rate", "peak_memory_bytes"}
"""What is no measurement, and is not smoothed."""
FROM_ZERO = {"tokens_per_second", "mfu", "peak_memory_bytes", OVERHEAD, "learning_rate"}


def figures(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a figure for each quantity of the runs: its title and group, and a line for each run."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        for key, (steps, values) in run.columns.items():
            if key not in NO_CURVES:
                line = line_of(steps, values * SCALES.get(key, 1.0))
                lines.setdefault(key, []).append({"run": number, **line})
        for key, (steps, values) in run.measures.items():
            if key not in NO_CURVES:
                # An evaluation's loss belongs on the training's.
                figure = "loss" if key == "eval/loss" else key
                dots = key.startswith(MEASURED)
                lines.setdefault(figure, []).append({"run": number, "dots": dots, **line_of(steps, values)})
    order = [*(key for key in FIRST if key in lines), *(key for key in lines if key not in FIRST)]
    return [
        {
            "key": key,
            "title": TITLES.get(key, key),
            "group": _group(key),
            "zero": key in FROM_ZERO,
            "exact": key in EXACT,
            "lines": lines[key],
        }
        for key in order
    ]


def line_of(steps: Floats, values: Floats) -> dict[str, Any]:
    """Return a line as the page draws it: points, and where they were thinned each stretch's mean.

    A long line keeps of each stretch the least and the greatest value, and a gap where there is one.
    """
    if len(values) <= 2 * MOST_BUCKETS:
        return {"x": _places(steps), "y": _plain(values)}
    edges = np.linspace(0, len(values), MOST_BUCKETS + 1).astype(int)
    kept: set[int] = {0, len(values) - 1}
    middles, means = [], []
    for start, end in pairwise(edges):
        stretch = values[start:end]
        real = np.flatnonzero(np.isfinite(stretch))
        if len(real) < len(stretch):
            kept.add(start + int(np.flatnonzero(~np.isfinite(stretch))[0]))
        if len(real):
            kept |= {start + int(real[pick(stretch[real])]) for pick in (np.argmin, np.argmax)}
        middles.append(float(steps[start:end].mean()))
        means.append(float(stretch[real].mean()) if len(real) else math.nan)
    places = sorted(kept)
    return {
        "x": _places(steps[places]),
        "y": _plain(values[places]),
        "mean_x": _places(middles),
        "mean_y": _plain(means),
    }


def axes(run: Run) -> dict[str, list[int | float]]:
    """Return at some steps of the run the tokens, samples and seconds so far, for the other x axes.

    An axis that the run did not log is left out.
    """
    out: dict[str, list[int | float]] = {}
    for key in AXES:
        if key in run.columns:
            steps, values = run.columns[key]
            places = np.unique(np.linspace(0, len(steps) - 1, MOST_TICKS).astype(int))
            places = places[np.isfinite(values[places])]
            out[f"{key}_at"], out[key] = _places(steps[places]), _places(values[places])
    return out


def _group(key: str) -> str:
    for start, group in (("loss/", "Losses"), ("eval/", "Evaluation"), ("downstream/", "Probes")):
        if key.startswith(start):
            return group
    return "" if key in FIRST else "System" if key.startswith("system/") else "More"


def _plain(values: Iterable[float]) -> list[float | None]:
    """Return values as JSON takes them, six digits each; null for none."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in map(float, values)]


def _places(values: Iterable[float]) -> list[int | float]:
    """Return steps, tokens or seconds as JSON takes them, whole where they are."""
    return [int(value) if value.is_integer() else round(value, 3) for value in map(float, values)]
