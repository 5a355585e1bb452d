"""Interleaving: which source each sample comes from, exact at every prefix, from one periodic table.

Every source's samples are tasks with a window each, and the one whose window closes first goes first: the
schedule of Baruah et al. (1996, "Proportionate progress", Algorithmica 15), whose lag is always below one.

Shapes: P samples of a period, S sources.
"""

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

LONGEST_PERIOD = 1 << 16
"""Longest period; weights that need more are rounded to this many parts."""


class Interleave:
    """From the place of a sample to (source, which of the source's samples it is), and back; no state.

    Of the first k samples, source i has more than k * shares[i] - 1 and fewer than k * shares[i] + 1.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._parts = parts_of(tuple(weights))
        self.period = sum(self._parts)
        self.shares = tuple(Fraction(part, self.period) for part in self._parts)
        """Share of each source, exact; a source without weight has 0."""
        self._source_P, self._nth_P = table_of(self._parts)
        self._places = [np.flatnonzero(self._source_P == source) for source in range(len(self._parts))]

    def __call__(self, index: int) -> tuple[int, int]:
        """Return (source, n): sample `index` is the source's n-th, counted from 0."""
        turn, place = divmod(index, self.period)
        source = int(self._source_P[place])
        return source, turn * self._parts[source] + int(self._nth_P[place])

    def where(self, source: int, nth: int) -> int:
        """Return the place of a source's n-th sample."""
        turn, nth = divmod(nth, self._parts[source])
        return turn * self.period + int(self._places[source][nth])

    def taken(self, source: int, samples: int) -> int:
        """Return how many of the first `samples` samples come from a source."""
        turn, rest = divmod(samples, self.period)
        return turn * self._parts[source] + int(np.searchsorted(self._places[source], rest))


@lru_cache(maxsize=64)
def parts_of(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Return whole numbers in the proportion of the weights as they are written in decimals.

    Where these would add up to more than LONGEST_PERIOD, they are rounded to add up to it, none to 0.
    """
    if not any(weights) or min(weights) < 0:
        raise ValueError(f"weights {weights}: none may be negative, and one has to be positive")
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    parts = [part // divisor for part in whole]
    total = sum(parts)
    if total <= LONGEST_PERIOD:
        return tuple(parts)
    rounded = [max(part * LONGEST_PERIOD // total, min(part, 1)) for part in parts]
    missing = LONGEST_PERIOD - sum(rounded)
    # What is left goes to those that lost most; what is too much is taken from those that have most.
    order = sorted(range(len(parts)), key=lambda i: rounded[i] * total - parts[i] * LONGEST_PERIOD)
    for i in order[: max(missing, 0)]:
        rounded[i] += 1
    for _ in range(-missing):
        rounded[rounded.index(max(rounded))] -= 1
    return tuple(rounded)


@lru_cache(maxsize=64)
def table_of(parts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the source of each place of a period, and how many of the source's stand before it."""
    P = sum(parts)
    source_P, nth_P = np.empty(P, dtype=np.int32), np.empty(P, dtype=np.int64)
    waiting = [(0, source, 0) for source, part in enumerate(parts) if part]
    open_: list[tuple[int, int, int]] = []
    for place in range(P):
        while waiting and waiting[0][0] <= place:
            _, source, nth = heapq.heappop(waiting)
            closes = -(-(nth + 1) * P // parts[source])
            heapq.heappush(open_, (closes, source, nth))
        _, source, nth = heapq.heappop(open_)
        source_P[place], nth_P[place] = source, nth
        if nth + 1 < parts[source]:
            heapq.heappush(waiting, ((nth + 1) * P // parts[source], source, nth + 1))
    return source_P, nth_P
