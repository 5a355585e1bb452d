"""What the loop asks of others: batches, evaluations, what they decide, and probes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from lumbre.engine import Engine
from lumbre.signals import StopRequest
from lumbre.tracking import Row
from lumbre.trainer.learner import Batch


class Batches(Protocol):
    """This rank's micro batches, step after step."""

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        """Return the iterator over steps."""
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...


class Watch(Protocol):
    """What looks at the losses of a step before any of it is applied."""

    def take(self, batch: Batch, losses: torch.Tensor | None) -> None:
        """Take a micro batch, on the host, and its targets' losses."""
        ...

    def judge(self, step: int) -> list[Row]:
        """Return events of what has to be left out of the step; every rank calls, after the last `take`.

        Where there are any the step's batches are others from now on.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint carries of it, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class Evaluator(Protocol):
    """What is measured beside the training loss."""

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return metrics by name, the same on every rank; every rank calls."""
        ...


class Selection(Protocol):
    """What the evaluations of a run decide: when it ends early, and which weights are kept."""

    @property
    def done(self) -> bool:
        """Whether the run ends here."""
        ...

    def observe(self, engine: Engine, step: int, metrics: Mapping[str, float]) -> None:
        """Take an evaluation's metrics; every rank calls."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint carries of it, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class Probes(Protocol):
    """What is looked at beside the run, on a copy of its weights."""

    @property
    def name(self) -> str:
        """What its part of a checkpoint's state is called."""
        ...

    def due(self, step: int) -> bool:
        """Whether some probe is to run after this step and has not."""
        ...

    def run(self, engine: Engine, step: int, stop: StopRequest) -> Iterator[Row]:
        """Yield a row for the trackers as each probe ends; every rank calls.

        What a signal cuts off stays due.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint carries of it, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...
