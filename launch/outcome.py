"""How a run ended: exit.json, for torchrun turns every status into 1."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbre.errors import ExitStatus

EXIT_FILE = "exit.json"


@dataclass(frozen=True)
class Outcome:
    """What the ranks recorded of the end of a run."""

    status: int
    reason: str
    rank: int | None
    step: int | None

    @property
    def told(self) -> str:
        """The end in words, with the remedy where running again is one."""
        at = "" if self.step is None else f" at step {self.step}"
        if self.status == ExitStatus.DONE:
            return f"done{at}"
        if self.status == ExitStatus.STOPPED:
            return f"stopped{at}; run the same command again to go on"
        return f"ended with status {self.status}{at}, first on rank {self.rank}: {self.reason}"


@dataclass(frozen=True)
class ExitRecord:
    """The exit.json of a run folder, and whether it is newer than this look at it."""

    file: Path
    before: tuple[int, int] | None

    @classmethod
    def of(cls, folder: Path) -> "ExitRecord":
        """Take note of the record that is there before the job starts, if one is."""
        return cls(folder / EXIT_FILE, _stamp(folder / EXIT_FILE))

    def outcome(self) -> Outcome | None:
        """Return what the job recorded since; None where it recorded nothing, or a kill tore it."""
        return read(self.file) if _stamp(self.file) not in (None, self.before) else None


def read(file: Path) -> Outcome | None:
    """Return what an exit.json says; None where there is none or it is torn."""
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
        return Outcome(int(found["status"]), str(found.get("reason")), found.get("rank"), found.get("step"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_outcome(argv: Sequence[str]) -> int:
    """`lumbre launch outcome RUN_FOLDER SECONDS`: exit as the run recorded it since then (Unix time).

    For scripts: 1 where it recorded nothing. A record of an earlier attempt does not count.
    """
    folder, since = argv
    file = Path(folder) / EXIT_FILE
    found = read(file)
    if found is None or file.stat().st_mtime < float(since):
        say(f"{folder}: the run has left no record of its end")
        return ExitStatus.BUG
    say(found.told)
    return found.status


def last_step(folder: Path) -> int | None:
    """Return the last step that a run has logged; None where it has logged none."""
    try:
        with (folder / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 65536))
            lines = stream.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def last_checkpoint(folder: Path) -> int | None:
    """Return the step of a run's newest checkpoint; None where it has none."""
    steps = [
        file.parent.name.removeprefix("step-") for file in folder.glob("checkpoints/step-*/manifest.json")
    ]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def say(text: str) -> None:
    """Tell the user on stderr, where there is something to tell."""
    if text:
        print(f"launch: {text}", file=sys.stderr, flush=True)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
