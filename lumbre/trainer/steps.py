"""The micro batches of one step after another, of which the last can be had again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lumbre.trainer.learner import Batch
from lumbre.trainer.parts import Batches


@dataclass(frozen=True)
class Done:
    """What came of one step."""

    stopping: bool
    """Whether some rank was asked to stop."""
    fault: str = ""
    """Why the run should not go on with these weights, "" where it may."""
    again: bool = False
    """Whether nothing was done, and the step's batches have become others."""


class Steps:
    """Takes batches where they are due; what is asked for out of turn is made anew."""

    def __init__(self, batches: Callable[[int], Batches], start: int) -> None:
        """`batches` gives those of the steps after so many."""
        self._batches = batches
        self._open(start)

    def take(self, step: int) -> Sequence[Batch]:
        """Return the micro batches of step 1, 2, ..."""
        if step != self._next:
            self.close()
            self._open(step - 1)
        self._next += 1
        return next(self._steps)

    def close(self) -> None:
        """Leave nothing running."""
        self._now.close()

    def _open(self, start: int) -> None:
        self._next = start + 1
        self._now = self._batches(start)
        self._steps: Iterator[Sequence[Batch]] = iter(self._now)
