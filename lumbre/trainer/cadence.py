"""When to save by the clock: every so many minutes, or as often as loses the least time."""

import statistics
import time
from collections import deque
from collections.abc import Callable

from lumbre.checkpoint import CheckpointConfig, best_interval
from lumbre.checkpoint.interval import SECONDS_A_DAY

FIRST_SECONDS = 60.0
"""With `auto`, when the first save is: what one costs is measured by it."""
SAVES = 5
"""Saves whose median is what one costs."""
STEPS = 32
"""Steps without a save in flight whose median is what one takes."""


class Cadence:
    """The main rank's clock; the others learn from it that a save is due.

    A save costs the time for which training stands still, and that by which the steps are slower while it is
    written in the background.
    """

    def __init__(self, config: CheckpointConfig, now: Callable[[], float] = time.monotonic) -> None:
        self._minutes, self._now = config.every_minutes, now
        self._between_failures = SECONDS_A_DAY / (config.failures_per_day or 1.0)
        self._since = now()
        self._costs: deque[float] = deque(maxlen=SAVES)
        self._steps: deque[float] = deque(maxlen=STEPS)
        self._beside: list[float] = []
        self._longest = 0.0

    @property
    def cost(self) -> float:
        """Seconds that a save costs; 0 before the first."""
        return statistics.median(self._costs) if self._costs else 0.0

    @property
    def interval(self) -> float | None:
        """Seconds between saves; None where the clock does not matter."""
        if self._minutes is None:
            return None
        if self._minutes != "auto":
            return 60.0 * self._minutes
        if not self._costs:
            return FIRST_SECONDS
        # One that begins before the last is whole would wait for it.
        return max(best_interval(self.cost, self._between_failures), self._longest)

    @property
    def is_due(self) -> bool:
        """Whether the time has come."""
        interval = self.interval
        return interval is not None and self._now() - self._since >= interval

    def began(self) -> None:
        """Note that a save begins, or the run."""
        self._since = self._now()

    def stepped(self, seconds: float, *, beside_a_save: bool) -> None:
        """Take how long a step took."""
        if beside_a_save:
            self._beside.append(seconds)
        else:
            self._steps.append(seconds)

    def saved(self, pause: float, seconds: float) -> None:
        """Take how long training stood still for a save, and how long it was until that was whole."""
        usual = statistics.median(self._steps) if self._steps else 0.0
        slower = sum(self._beside) - usual * len(self._beside) if usual else 0.0
        self._beside.clear()
        self._costs.append(pause + max(0.0, slower))
        self._longest = max(self._longest, seconds)
