"""A loss that jumps: one far above the median of the last ones, told by their median absolute deviation."""

import math
from collections import deque
from collections.abc import Iterable, Sequence

WINDOW = 64
"""Steps that a loss is compared with."""
FEWEST = 32
"""Steps before any loss is compared."""
DEVIATIONS = 7.0
"""How many standard deviations, estimated as 1.4826 x MAD, a spike is above the median."""
LEAST_RISE = 0.1
"""And by what share of the median, for losses that hardly vary."""


class LossSpikes:
    """Tells spikes from the noise of one-step losses; a spike is not taken up into what is normal at once.

    Only the first step of a spike is told; the next can be when a loss has been normal in between.
    """

    def __init__(self, losses: Sequence[float] = ()) -> None:
        self._losses = deque(losses, maxlen=WINDOW)
        self._in_spike = False

    def observe(self, loss: float) -> str:
        """Take a step's loss; return what is to be told of it, "" where it is normal."""
        message = ""
        if len(self._losses) >= FEWEST:
            median = _middle(self._losses)
            deviation = 1.4826 * _middle([abs(one - median) for one in self._losses])
            spikes = not loss <= median + max(DEVIATIONS * deviation, LEAST_RISE * abs(median))
            if spikes and not self._in_spike:
                message = (
                    f"loss {loss:.4f}, and the median of the last {len(self._losses)} steps is {median:.4f}"
                )
            self._in_spike = spikes
        if math.isfinite(loss):
            self._losses.append(loss)
        return message

    def state(self) -> list[float]:
        """Return what a checkpoint carries of it: with it a resumed run tells the same."""
        return list(self._losses)


def _middle(values: Iterable[float]) -> float:
    # The statistics module's median takes ten times as long, at every step.
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
