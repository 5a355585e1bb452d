"""A run's rows as columns of numbers."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lumbre.report.html import is_number

OVERHEAD = "overhead"
"""The share of a step that went to data and to the loop itself, made of three keys of a training row."""
SECONDS = "seconds"
"""What the steps so far took; pauses between the parts of a resumed run take none."""
Row = dict[str, Any]
Floats = NDArray[np.float64]
Column = tuple[Floats, Floats]
"""Steps and values; a value that is missing is NaN and leaves a gap."""


def columns(rows: Sequence[Row]) -> dict[str, Column]:
    """Return the column of every key that has a number, from the rows that have a step."""
    rows = [row for row, step in zip(rows, _numbers(rows, "step"), strict=True) if np.isfinite(step)]
    out = {}
    for key in dict.fromkeys(chain.from_iterable(rows)):
        there = [row for row in rows if key in row]
        values = _numbers(there, key)
        if np.isfinite(values).any():
            out[key] = _numbers(there, "step"), values
    return out | _made(out)


def _made(given: dict[str, Column]) -> dict[str, Column]:
    out = {}
    if {"step_seconds", "data_seconds", "overhead_seconds"} <= given.keys():
        (steps, step), (_, data), (_, loop) = (
            given[f"{part}_seconds"] for part in ("step", "data", "overhead")
        )
        if len(step) == len(data) == len(loop):
            out[OVERHEAD] = steps, (data + loop) / np.where(step > 0, step, np.nan)
    if "step_seconds" in given:
        steps, seconds = given["step_seconds"]
        took = np.maximum(np.diff(steps, prepend=0.0), 0.0) * np.nan_to_num(seconds)
        out[SECONDS] = steps, took.cumsum()
    return out


def _numbers(rows: Sequence[Row], key: str) -> Floats:
    values = [row.get(key) for row in rows]
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array([value if is_number(value) else np.nan for value in values], dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)
