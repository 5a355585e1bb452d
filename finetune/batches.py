"""Training batches of rows: epoch after epoch in an order drawn from (seed, epoch), like lengths together.

A global batch is told by the order alone. How its rows are dealt to ranks and micro batches is not: rows of
like length go together, which changes neither loss nor gradient, for both are sums over the whole batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from lumbre import distributed
from lumbre.trainer import Batch

from .tasks import Row, Task


@dataclass(frozen=True)
class Padding:
    """What is computed for nothing."""

    tokens: int
    """Tokens of the rows."""
    bucketed: int
    """Tokens of the micro batches, padding included."""
    in_order: int
    """The same, were rows put in micro batches of one size in the order drawn."""

    def told(self, *, unpadded: bool) -> str:
        """Return it in words; `unpadded` says that the model computes none of it."""
        shares = [1 - self.tokens / padded for padded in (self.bucketed, self.in_order)]
        if unpadded:
            return f"padding: none is computed ({shares[1]:.0%} of a padded batch would be)"
        return f"padding: {shares[0]:.0%} of the tokens computed ({shares[1]:.0%} without length buckets)"


class EpochBatches:
    """This rank's micro batches of the steps after `start`."""

    def __init__(
        self,
        task: Task,
        rows: Sequence[Row],
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        start: int,
    ) -> None:
        self._task, self._rows, self._seed = task, rows, seed
        self._global, self._micro, self._start = global_batch_size, micro_batch_size, start
        self._lengths = np.array([task.length(row) for row in rows])
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        """Yield step after step without end."""
        world = distributed.world()
        for step in count(self._start):
            mine = self.groups(step)[world.rank :: world.size]
            yield [self._task.collate([self._rows[at] for at in group]) for group in mine]

    def close(self) -> None:
        """Nothing runs beside the loop."""

    def groups(self, step: int) -> list[list[int]]:
        """Return the rows of every micro batch of a step, over all ranks, the longest first."""
        chosen = [self.sample(step * self._global + at) for at in range(self._global)]
        unit = self._task.unit
        units = [chosen[at : at + unit] for at in range(0, self._global, unit)]
        longest = np.array([self._lengths[one].max() for one in units])
        groups = even_groups(longest, self._global // self._micro)
        return [[row for at in group for row in units[at]] for group in groups]

    def padding(self, steps: int) -> Padding:
        """Return what the first steps compute beside the rows themselves, at most an epoch."""
        tokens = bucketed = in_order = 0
        for step in range(max(1, min(steps, len(self._rows) // self._global))):
            chosen = np.array([self.sample(step * self._global + at) for at in range(self._global)])
            tokens += int(self._lengths[chosen].sum())
            bucketed += sum(len(group) * int(self._lengths[group].max()) for group in self.groups(step))
            in_order += int(self._lengths[chosen].reshape(-1, self._micro).max(axis=1).sum()) * self._micro
        return Padding(tokens, bucketed, in_order)

    def sample(self, sample: int) -> int:
        """Return the row that sample so-and-so of the stream is."""
        epoch, at = divmod(sample, len(self._rows))
        if epoch != self._epoch:
            chance = distributed.random(self._seed, distributed.Stream.ORDER, epoch)
            self._epoch, self._order = epoch, chance.permutation(len(self._rows))
        return int(self._order[at])


def even_groups(lengths: np.ndarray, number: int) -> list[list[int]]:
    """Return so many groups of like length whose padded sizes, rows times the longest, are about even.

    None is larger than the longest length times an even share of the rows.
    """
    order = [int(at) for at in np.argsort(-lengths, kind="stable")]
    sizes = [int(lengths[at]) for at in order]
    low, high = max(sizes), max(sizes) * -(-len(sizes) // number)
    while low < high:
        cap = (low + high) // 2
        if len(_filled(sizes, cap)) <= number:
            high = cap
        else:
            low = cap + 1
    spans = _filled(sizes, low)
    while len(spans) < number:
        # Ranks take as many micro batches each: the largest that can be is cut in two.
        at = max(range(len(spans)), key=lambda n: (len(spans[n]) > 1, len(spans[n]) * sizes[spans[n].start]))
        start, stop = spans[at].start, spans[at].stop
        spans[at : at + 1] = [range(start, (start + stop) // 2), range((start + stop) // 2, stop)]
    return [[order[at] for at in span] for span in spans]


def _filled(sizes: Sequence[int], cap: int) -> list[range]:
    """Return spans of falling sizes, each as long as its padded size allows."""
    spans, start = [], 0
    while start < len(sizes):
        stop = min(len(sizes), start + max(1, cap // max(1, sizes[start])))
        spans.append(range(start, stop))
        start = stop
    return spans
