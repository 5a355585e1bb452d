"""What a run folder tells the report; whatever is missing or damaged is left out."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lumbre.errors import RunFolderError
from lumbre.report.columns import Column, Row, columns
from lumbre.report.html import is_number
from lumbre.report.results import mistakes
from lumbre.tracking.jsonl import METRICS_FILE, read

COLORS = ("#c2542d", "#2f7fb5", "#5a9a5a", "#9a68a5", "#b8912b", "#3f9494", "#b56a7d", "#7a7a7a")
RUN_FILES = (METRICS_FILE, "config.yaml", "exit.json", "results.json")
"""A folder with none of these is no run's."""
ROUTINE = ("checkpoint",)
"""Events that happen again and again."""


@dataclass(frozen=True)
class Run:
    """A run as the page sees it."""

    name: str
    folder: Path
    color: str
    training: list[Row]
    measured: list[Row]
    """Rows of evaluations, probes and the system: all that have numbers and are no training rows."""
    events: list[Row]
    generations: list[Row]
    """Rows with `samples`, in order of their steps."""
    config: dict[str, str]
    """Dotted keys and their values as text."""
    results: Row
    mistakes: list[Row]
    """Predictions of a fine-tuned model that are not right, the worst first."""

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The training rows' numbers."""
        return columns(self.training)

    @cached_property
    def measures(self) -> dict[str, Column]:
        """The other rows' numbers."""
        return columns(self.measured)

    @property
    def missing(self) -> list[str]:
        """What the page cannot show of the run, in words."""
        out = []
        if not self.training and not self.measured and not self.results:
            out.append("no metrics yet")
        if not self.config:
            out.append("no config.yaml that can be read")
        return out


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders in their order; raises RunFolderError for what is no run folder."""
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise RunFolderError(f"{', '.join(missing)}: no such run folder; runs are usually in runs/NAME")
    strangers = [folder for folder in folders if not any((folder / file).is_file() for file in RUN_FILES)]
    if strangers:
        raise RunFolderError(
            f"{', '.join(map(str, strangers))}: is no run folder, it has none of {', '.join(RUN_FILES)}; "
            "runs are usually in runs/NAME"
        )
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [
        _read(name, folder, COLORS[number % len(COLORS)])
        for number, (name, folder) in enumerate(zip(names, folders, strict=True))
    ]


def _read(name: str, folder: Path, color: str) -> Run:
    training, measured, events, generations = [], [], [], []
    for row in read(folder / METRICS_FILE):
        if "event" in row:
            events.append(row)
        elif "loss" in row:
            training.append(row)
        elif isinstance(row.get("samples"), list):
            generations.append({**row, "samples": _rows(row["samples"])})
        else:
            measured.append(row)
    measured += _system(folder, training)
    told, results = _json(folder / "samples.json"), _json(folder / "results.json")
    if isinstance(told, list) and _rows(told):
        generations.append({"step": None, "samples": _rows(told)})
    results = results if isinstance(results, dict) else {}
    config = dict(_flat(_yaml(folder / "config.yaml")))
    wrong = mistakes(folder, results)
    return Run(name, folder, color, training, measured, events, generations, config, results, wrong)


def _system(folder: Path, training: Sequence[Row]) -> list[Row]:
    """Return the figures of every node, each at the step that the run was at by its training rows' clock."""
    if not (folder / "system").is_dir():
        return []
    clock = [
        (row["time"], row["step"])
        for row in training
        if is_number(row.get("time")) and is_number(row.get("step"))
    ]
    if not clock:
        return []
    times, steps = zip(*clock, strict=True)
    out = []
    for file in sorted((folder / "system").glob("*.jsonl")):
        for line in read(file):
            if is_number(line.get("time")) and times[0] <= line["time"] <= times[-1]:
                named = {f"system/{file.stem}/{key}": value for key, value in line.items() if key != "time"}
                out.append({"step": float(np.interp(line["time"], times, steps)), **named})
    return out


def _rows(values: list[Any]) -> list[Row]:
    return [value for value in values if isinstance(value, dict)]


def _flat(tree: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, tree if isinstance(tree, str) else json.dumps(tree, default=str)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
