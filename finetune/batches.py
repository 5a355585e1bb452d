"""Training batches of encoded examples: epoch after epoch in an order drawn from (seed, epoch) alone."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from lumbre import distributed
from lumbre.trainer import Batch

from .tasks import Task


class EpochBatches:
    """This rank's micro batches of the steps after `start`."""

    def __init__(
        self,
        task: Task,
        rows: Sequence[Mapping[str, np.ndarray]],
        seed: int,
        global_batch_size: int,
        micro_batch_size: int,
        start: int,
    ) -> None:
        self._task, self._rows, self._seed = task, rows, seed
        self._global, self._micro, self._start = global_batch_size, micro_batch_size, start
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        """Yield step after step without end."""
        world = distributed.world()
        share = self._global // world.size
        for step in count(self._start):
            first = step * self._global + world.rank * share
            rows = [self._row(first + at) for at in range(share)]
            yield [self._task.collate(rows[at : at + self._micro]) for at in range(0, share, self._micro)]

    def close(self) -> None:
        """Nothing runs beside the loop."""

    def _row(self, sample: int) -> Mapping[str, np.ndarray]:
        epoch, at = divmod(sample, len(self._rows))
        if epoch != self._epoch:
            chance = distributed.random(self._seed, distributed.Stream.ORDER, epoch)
            self._epoch, self._order = epoch, chance.permutation(len(self._rows))
        return self._rows[int(self._order[at])]
