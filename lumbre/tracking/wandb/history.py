"""What W&B has of a run already, read back with its client from the files of the run's earlier parts."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbre.tracking.rows import kind

SAMPLES = "samples/table"
"""The table of what the model says."""


@dataclass(frozen=True)
class History:
    """How far W&B's history of a run goes."""

    w_step: int = -1
    """W&B's own last step, which only rises."""
    step: int = -1
    """The run's last step that has a row."""
    kinds: frozenset[str] | None = frozenset()
    """The kinds of rows that this step has; None where all are taken to be there."""

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has been sent."""
        if row["step"] == self.step:
            return self.kinds is None or kind(row) in self.kinds
        return int(row["step"]) < self.step

    def place(self, row: Mapping[str, Any]) -> int:
        """Return W&B's step for a row that has not been sent.

        One that an earlier part stopped short of comes right after that part; it is drawn at its own step.
        """
        return max(int(row["step"]), self.w_step + 1)


def of_files(folder: Path, run_id: str) -> History:
    """Read the local files of a run in `folder`, offline or not, the newest first, as far as is needed."""
    w_step, step, kinds = -1, -1, set[str]()
    files = sorted(
        folder.glob(f"*run-*-{run_id}/run-{run_id}.wandb"),
        key=lambda file: file.parent.name.removeprefix("offline-"),
    )
    for file in reversed(files):
        rows = list(rows_of(file))
        w_step = max([w_step, *(row["_step"] for row in rows)])
        newest = max((row["step"] for row in rows), default=-1)
        if newest < step:
            break
        if newest > step:
            step, kinds = newest, set()
        kinds |= {name for row in rows if row["step"] == step for name in _kinds(row)}
    return History(w_step, step, frozenset(kinds))


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the history of one of W&B's files, up to where it was torn by a kill."""
    line = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as reader:
        assert reader.stdout is not None
        for text in reader.stdout:
            if '"type":"history"' in text:
                yield json.loads(text)["history"]["item"]


def _kinds(row: Mapping[str, Any]) -> set[str]:
    """Return the kinds of the rows that one step of W&B's puts together."""
    telling = [key for key in row if key in ("loss", "event") or key.startswith(("eval/", "downstream/"))]
    said = {"samples"} if any(key.startswith(SAMPLES) for key in row) else set()
    return {kind({key: row[key]}) for key in telling} | said
