"""How far a long piece of work is: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lumbre import watchdog

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY_SECONDS = 5.0


class ByteProgress:
    """Shows bytes done of bytes to do, with the rate and the time left, on stderr."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title = title
        self._total = total
        self._before = self._done = done
        self._start = self._said = time.monotonic()
        self._bar: Progress | None = _bar() if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task(self._title, total=self._total, completed=self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def reach(self, done: int) -> None:
        """Say how many bytes are done."""
        watchdog.enter("preparing data")
        self._done = min(done, self._total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif time.monotonic() - self._said >= EVERY_SECONDS:
            self._said = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        rate = max((self._done - self._before) / (time.monotonic() - self._start), 1.0)
        left = (self._total - self._done) / rate
        return (
            f"{self._title}: {self._done / 1e6:,.1f} of {self._total / 1e6:,.1f} MB, "
            f"{rate / 1e6:.1f} MB/s, {left:.0f} s left"
        )


def _bar() -> "Progress":
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
