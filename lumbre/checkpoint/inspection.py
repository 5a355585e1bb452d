"""What `lumbre verify` finds: every checkpoint of a run, what it holds and whether it is whole."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lumbre.checkpoint.manifest import MANIFEST, STATE, listed
from lumbre.checkpoint.verify import verify_all
from lumbre.errors import CheckpointError, ExitStatus

RUN_FILES = ("config.yaml", "metrics.jsonl")
STILL_SECONDS = 60.0
"""What has not changed for so long is not being written."""


@dataclass(frozen=True)
class Finding:
    """One checkpoint as it was found."""

    folder: Path
    faults: list[str]
    nbytes: int
    ranks: int
    """How many processes wrote it."""
    written: float
    """When, in seconds since 1970."""
    metrics: dict[str, float]
    """The evaluation of its weights, where there was one."""


def inspect(run: Path) -> list[Finding]:
    """Look at every checkpoint below a run folder, in the order of their steps, in several threads.

    Nothing is written or locked: a run that is going on is not disturbed, and what it removes meanwhile is
    left out. Raises CheckpointError for a folder that is no run.
    """
    places = list(_places(run))
    folders = [folder for place in places for folder in sorted(place.glob("step-*"))]
    return [_finding(folder, faults) for folder, faults in verify_all(folders).items()]


def report(run: Path) -> ExitStatus:
    """Print what `inspect` finds; return DONE where all checkpoints are whole, else USER_ERROR."""
    console = Console(highlight=False, soft_wrap=True)
    findings, unfinished = inspect(run), list(_unfinished(run))
    if findings:
        console.print(_table(run, findings))
    for line in unfinished:
        console.print(line, markup=False)
    damaged = [finding for finding in findings if finding.faults]
    for finding in damaged:
        for fault in finding.faults:
            console.print(f"[bold red]damaged:[/] {finding.folder / fault}")
    whole = len(findings) - len(damaged)
    if not findings:
        console.print(f"{run}: has no checkpoint yet")
    elif not damaged:
        console.print(f"{whole} of {whole} checkpoints whole")
    else:
        console.print(f"{whole} of {len(findings)} checkpoints whole; {_remedy(whole)}")
    return ExitStatus.USER_ERROR if damaged else ExitStatus.DONE


def _remedy(whole: int) -> str:
    if whole:
        return "a run goes on from the latest that is, and names those that it skips"
    return "move the checkpoints folder away to start over"


def _places(run: Path) -> Iterator[Path]:
    """Yield the folders with checkpoints: the run's, or those of the runs that it is made of."""
    if not run.is_dir():
        raise CheckpointError(f"{run}: there is no such folder; name a run's, as in runs/NAME")
    found = sorted(place for place in (run / "checkpoints", *run.glob("*/checkpoints")) if place.is_dir())
    if not found and run.name == "checkpoints":
        raise CheckpointError(f"{run}: name the run's own folder: lumbre verify {run.parent}")
    if not found and not any((run / name).is_file() for name in RUN_FILES):
        below = sorted(place.parent for place in run.glob("*/*/checkpoints"))
        near = f"; did you mean {below[0].relative_to(run.parent)}?" if below else ""
        raise CheckpointError(f"{run}: is no run folder: it has neither checkpoints nor {RUN_FILES[0]}{near}")
    yield from found


def _unfinished(run: Path) -> Iterator[str]:
    for place in _places(run):
        for folder in sorted(place.glob(".step-*.tmp")):
            # A live run may finish it at any moment.
            with suppress(OSError):
                files = [file.stat() for file in folder.iterdir()]
                size = _size(sum(file.st_size for file in files))
                latest = max((file.st_mtime for file in files), default=folder.stat().st_mtime)
                writes = time.time() - latest < STILL_SECONDS
                cut_off = "left by a save that was cut off, the next one removes it"
                yield f"{'being written' if writes else cut_off}: {folder} ({size})"


def _finding(folder: Path, faults: list[str]) -> Finding:
    files, _ = listed(folder)
    metrics: dict[str, float] = {}
    written = 0.0
    with suppress(OSError, ValueError, AttributeError):
        written = (folder / MANIFEST).stat().st_mtime
        metrics = dict(json.loads((folder / STATE).read_bytes()).get("metrics", {}))
    nbytes = sum(size for size, _ in files.values())
    ranks = sum(name.endswith(".safetensors") for name in files)
    return Finding(folder, faults, nbytes, ranks, written, metrics)


def _table(run: Path, findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in ("checkpoint", "left"), ("size", "right"), ("ranks", "right"), ("written", "left"):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("eval/loss", justify="right")
    table.add_column("state")
    for finding in findings:
        loss = finding.metrics.get("loss")
        table.add_row(
            str(finding.folder.relative_to(run)),
            _size(finding.nbytes),
            str(finding.ranks),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(finding.written)) if finding.written else "",
            f"{loss:.4f}" if isinstance(loss, float) else "",
            "[red]damaged[/]" if finding.faults else "[green]whole[/]",
        )
    return table


def _size(nbytes: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB"]
    power = min(len(str(int(nbytes))) - 1, 3 * len(units) - 1) // 3
    return f"{nbytes / 1000**power:.3g} {units[power]}"
