"""The run on the screen: a live bar on a terminal, aligned lines anywhere else."""

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from lumbre.tracking.rows import is_said

SECONDS_BETWEEN_LINES = 3.0
ROOMY = 72
"""Columns of a terminal from which on the numbers stand wide apart."""
MEASURED = ("eval/", "downstream/")
"""How the keys of an evaluation and of a probe begin."""
Row = Mapping[str, Any]


def console_tracker(name: str, total_steps: int, start_step: int = 0) -> "LiveTracker | LineTracker":
    """Return the tracker that suits where the program's output goes."""
    console = Console(highlight=False)
    kind = LiveTracker if console.is_terminal and not console.is_dumb_terminal else LineTracker
    return kind(name, total_steps, start_step, console)


class LineTracker:
    """Prints readable lines: training rows some seconds apart, the first and the last one always."""

    name = "console"

    def __init__(self, name: str, total_steps: int, start_step: int, console: Console) -> None:
        self._total_steps = total_steps
        self._console = console
        self._clock = _Clock(total_steps)
        self._held: Row | None = None
        self._next_line = -math.inf

    def log(self, row: Row) -> None:
        """Print the row, or hold it back if the last line is too recent."""
        if not is_training(row):
            self._print_held()
            self._print(told(row))
            return
        self._held = row
        self._clock.tick(row)
        if time.monotonic() >= self._next_line:
            self._print_held()

    def finish(self, exit_status: int) -> None:
        """Print the last row."""
        self._print_held()

    def _print_held(self) -> None:
        if self._held is None:
            return
        row, self._held = self._held, None
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
        values = "  ".join(
            f"{label} {value:>{width}}" if label else f"{value:>{width}}"
            for label, value, width in fields(row)
        )
        left = self._clock.left(row)
        self._print((row["step"], f"{values}  {left} left" if left else values, ""))

    def _print(self, line: tuple[int | None, str, str]) -> None:
        step, text, _ = line
        place = step_of(step, self._total_steps)
        print(f"{place}  {text}", file=self._console.file, flush=True)


class LiveTracker:
    """Keeps a bar and the latest numbers at the bottom of the terminal; the rest scrolls above it."""

    name = "console"

    def __init__(self, name: str, total_steps: int, start_step: int, console: Console) -> None:
        self._total_steps = total_steps
        self._console = console
        self._clock = _Clock(total_steps)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(None, style="grey30", complete_style="dark_orange", finished_style="green"),
            TextColumn("{task.completed:,}[dim]/{task.total:,}[/]"),
            TextColumn("[cyan]{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task(
            Text(name).plain[: min(32, console.width // 3)], total=total_steps, completed=start_step, left=""
        )
        self._live = Live(Group(self._bar), console=console, refresh_per_second=5)
        self._live.start()

    def log(self, row: Row) -> None:
        """Move the bar, or print an evaluation or an event above it."""
        if is_training(row):
            self._clock.tick(row)
            left = self._clock.left(row)
            self._bar.update(self._task, completed=row["step"], left=f"{left} left" if left else "")
            self._live.update(Group(self._bar, self._numbers(row)))
        else:
            step, text, style = told(row)
            line = Text(f"{step_of(step, self._total_steps)}  ", style="dim")
            self._console.print(line.append(text, style=style or "not dim"))

    def finish(self, exit_status: int) -> None:
        """Leave the last state on the screen."""
        self._live.stop()

    def _numbers(self, row: Row) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        gap = "   " if self._console.width >= ROOMY else "  "
        for label, value, _ in fields(row):
            part = Text(gap if line else "").append(f"{label} " if label else "", style="dim")
            lost = label == "loss" and not _finite(row["loss"])
            part.append(value, style="bold red" if lost else "bold" if label == "loss" else "")
            if line.cell_len + part.cell_len <= self._console.width:
                line.append_text(part)
        return line


class _Clock:
    """Tells the time left from the pace since the first row."""

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps
        self._first: tuple[int, float] | None = None
        self._now = 0.0

    def tick(self, row: Row) -> None:
        self._now = time.monotonic()
        if self._first is None:
            self._first = (row["step"], self._now)

    def left(self, row: Row) -> str:
        assert self._first is not None
        step, began = self._first
        remaining = self._total_steps - row["step"]
        if remaining <= 0:
            return ""
        if row["step"] > step:
            return duration(remaining * (self._now - began) / (row["step"] - step))
        seconds = row.get("step_seconds")
        return duration(remaining * seconds) if _finite(seconds) else ""


def is_training(row: Row) -> bool:
    """Whether the row is a training row."""
    return "loss" in row and "event" not in row


def fields(row: Row) -> list[tuple[str, str, int]]:
    """Return a training row's numbers for the screen as (label, text, width), most wanted first."""
    shown = [("loss", number(row["loss"]), 7)]
    if "learning_rate" in row:
        shown.append(("lr", number(row["learning_rate"], ".2e"), 8))
    if "tokens_per_second" in row:
        shown.append(("", number(row["tokens_per_second"], ",.0f") + " tok/s", 13))
    if "mfu" in row and row["mfu"] is not None:
        shown.append(("MFU", number(row["mfu"], ".1%"), 6))
    if "peak_memory_bytes" in row:
        shown.append(("", memory(row["peak_memory_bytes"]), 8))
    if "grad_norm" in row:
        shown.append(("grad", number(row["grad_norm"], ".3g"), 6))
    return shown


def told(row: Row) -> tuple[int | None, str, str]:
    """Return an evaluation's, a probe's or an event's row as (step, text, style)."""
    if "event" in row:
        message = str(row.get("message") or "")
        style = (
            "yellow"
            if str(row["event"]).endswith(("off", "skipped", "failed", "spike", "stalled", "watchdog"))
            else "green"
        )
        return row.get("step"), f"{row['event']}  {message}".rstrip(), style
    if is_said(row):
        said = (f"{one['prompt']} -> {one['text'].strip()}" for one in row["samples"])
        return row.get("step"), "\n".join(" ".join(one.split()) for one in said), ""
    values = (f"{key} {number(value)}" for key, value in row.items() if key.startswith(MEASURED))
    return row.get("step"), "  ".join(values), "bold cyan"


def step_of(step: int | None, total_steps: int) -> str:
    """Return `step  120/600`, as wide for every step of the run."""
    total = f"{total_steps:,}"
    return f"step {step if step is not None else 0:>{len(total)},}/{total}"


def number(value: Any, form: str = ".4f") -> str:
    """Return a number as text; what is none, such as a NaN that was saved as null, is `nan`."""
    if not _finite(value):
        return "nan"
    if form == ".4f" and abs(value) >= 1000:
        form = ",.1f"
    return format(value, form)


def memory(value: Any) -> str:
    """Return bytes as GiB, or MiB below one GiB."""
    if not _finite(value):
        return "nan"
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """Return seconds as `2:14`, `1:02:14` or `3d 01:02`."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
