"""A run that stands still: no step has ended for far longer than steps take."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEAST_SECONDS = 60.0
USUAL_STEPS = 10.0
"""A step that takes so many times the usual is a stall; the first, which compiles, so many least seconds."""
WINDOW = 32
"""Steps that tell what is usual."""
LOOKS = 20.0
"""Looks in the shortest time that is a stall."""


class StallWatch:
    """A thread that tells once when no step ends, and once more when one does.

    Evaluations, saves and probes take their own time and are left out.
    """

    def __init__(self, tell: Callable[[str, str], None], least_seconds: float = LEAST_SECONDS) -> None:
        self._tell = tell
        self._least = least_seconds
        self._took: deque[float] = deque(maxlen=WINDOW)
        self._since = time.monotonic()
        self._elsewhere = True
        self._waits_for = ""
        self._stalled = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="stalls", daemon=True)

    def __enter__(self) -> "StallWatch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch one step, which begins by waiting for its data."""
        self._since, self._elsewhere, self._waits_for = time.monotonic(), False, "waiting for data"
        yield
        self._elsewhere = True
        took = time.monotonic() - self._since
        self._took.append(took)
        if self._stalled:
            self._stalled = False
            self._tell("resumed_pace", f"the step ended after {took:.0f} s")

    def has_data(self) -> None:
        """Note that the step's data is there."""
        self._waits_for = "in forward, backward, the optimizer or another rank"

    def _limit(self) -> float:
        usual = statistics.median(self._took) if self._took else self._least
        return max(self._least, USUAL_STEPS * usual)

    def _work(self) -> None:
        while not self._done.wait(self._least / LOOKS):
            stands = time.monotonic() - self._since
            if not self._elsewhere and not self._stalled and stands > self._limit():
                self._stalled = True
                self._tell("stalled", f"no step has ended for {stands:.0f} s: {self._waits_for}")
