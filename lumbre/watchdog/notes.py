"""What this rank does now: noted at every turn, in about a microsecond, on a board that its helper reads."""

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from lumbre.watchdog.board import Board, shared_memory

LEAST_SECONDS = 300.0
USUAL_STEPS = 10.0
"""A step that takes so many times the usual is a hang, if it also takes the least seconds."""
WINDOW = 32
"""Steps that tell what is usual."""


class Notes:
    """What a rank does, and how long it may take before it counts as a hang."""

    def __init__(
        self, board: Board, limit: float | Literal["auto"], *, start: float, allowance: float
    ) -> None:
        self.board = board
        self._limit = limit
        self._start = start
        self._rest = allowance
        self._took: deque[float] = deque(maxlen=WINDOW)
        self._step = 0
        self._allowed = start
        self._phase = b"starting"
        self._collective = b""
        self._collectives = 0
        self._write()

    @property
    def allowance(self) -> float:
        """How long what is no step may take: the start has its own time."""
        return self._rest if self._took else self._start

    def begin(self) -> None:
        """Forget what was usual: another model trains from now on."""
        self._took.clear()

    def enter(self, phase: str) -> None:
        """Note that the rank turns to something else, in the time that it has."""
        self._phase = phase.encode()
        self._write()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Note what the rank does inside, with the allowance of what takes its own time."""
        before = self._phase, self._allowed
        self._phase, self._allowed = phase.encode(), self.allowance
        self._write()
        try:
            yield
        finally:
            self._phase, self._allowed = before
            self._write()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Watch one training step, which begins by waiting for its data."""
        began = time.monotonic()
        self._step, self._allowed = number, self.step_limit()
        self.enter("waiting for data")
        try:
            yield
            self._took.append(time.monotonic() - began)
        finally:
            self._allowed = self.allowance
            self.enter("between steps")

    @contextmanager
    def collective(self, name: str) -> Iterator[None]:
        """Note that the rank meets the others."""
        before, self._collective = self._collective, name.encode()
        self._collectives += 1
        self._write()
        try:
            yield
        finally:
            self._collective = before
            self._write()

    def step_limit(self) -> float:
        """Return how long the next step may take; the first, which compiles, is part of the start."""
        if not self._took:
            return self._start
        if self._limit != "auto":
            return self._limit
        return max(LEAST_SECONDS, USUAL_STEPS * statistics.median(self._took))

    def _write(self) -> None:
        self.board.write(self._step, self._allowed, self._collectives, self._phase, self._collective)


def unwatched() -> Notes:
    """Return notes that nobody reads."""
    return Notes(Board(shared_memory("lumbre-notes")), "auto", start=float("inf"), allowance=float("inf"))


_current: list[Notes] = []


def current() -> Notes:
    """Return this process's notes."""
    if not _current:
        _current.append(unwatched())
    return _current[0]


def publish(notes: Notes) -> None:
    """Make these the process's notes."""
    _current[:] = [notes]


def enter(phase: str) -> None:
    """Note that this rank turns to something else, in the time that it has."""
    current().enter(phase)


@contextmanager
def during(phase: str) -> Iterator[None]:
    """Note what this rank does inside, with the allowance of what takes its own time; decorates too."""
    with current().during(phase):
        yield


def step(number: int) -> AbstractContextManager[None]:
    """Watch one training step, which begins by waiting for its data."""
    return current().step(number)


def collective(name: str) -> AbstractContextManager[None]:
    """Note that this rank meets the others."""
    return current().collective(name)
