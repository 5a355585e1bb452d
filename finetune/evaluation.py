"""A task's predictions and metrics on a whole split."""

from collections.abc import Sequence
from typing import Any

from lumbre import distributed, watchdog
from lumbre.engine import Engine

from .examples import Split
from .tasks import Prediction, Task


class TaskEvaluator:
    """Predicts every row once over all ranks, and scores the examples together."""

    def __init__(self, task: Task, split: Split, batch_size: int, *, calibrates: bool = False) -> None:
        self._task, self._split = task, split
        self._calibrates = calibrates
        self._spans = spans([task.length(row) for row in split.rows], batch_size)
        self.predictions: list[Prediction] = []
        """One of each example, by the last evaluation."""
        self.metrics: dict[str, float] | None = None
        """What the last evaluation came to."""

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return the task's metrics, and the mean loss."""
        world, rows = distributed.world(), self._split.rows
        model = engine.module if self._task.generates else engine.forward()
        found: list[tuple[int, Any]] = []
        loss = count = 0.0
        for turn in range(0, len(self._spans), world.size):
            watchdog.enter("evaluating")
            # Every rank runs every turn: ZeRO 3 gathers parameters in the forward pass.
            mine = turn + world.rank
            span = self._spans[mine if mine < len(self._spans) else 0]
            batch = self._task.collate([rows[at] for at in span])
            predicted = self._task.predict(
                model, {name: tensor.to(engine.device) for name, tensor in batch.items()}
            )
            if mine < len(self._spans):
                found += zip(span, predicted.outputs, strict=True)
                loss, count = loss + predicted.loss, count + predicted.count
        loss, count = distributed.sum_over_ranks([loss, count])
        outputs: list[list[Any]] = [[] for _ in self._split.examples]
        everyone = [pair for part in distributed.gather_objects(found) for pair in part]
        for at, output in sorted(everyone, key=lambda pair: pair[0]):
            outputs[self._split.example_of[at]].append(output)
        if self._calibrates:
            self._task.calibrate(self._split.examples, outputs)
        self.predictions = self._task.decide(self._split.examples, outputs)
        metrics = self._task.score(self._split.examples, self.predictions)
        self.metrics = {**metrics, "loss": loss / count} if count else metrics
        return self.metrics


def spans(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return row numbers in batches of like length, of as many tokens as `batch_size` of the longest have."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    budget = batch_size * max(lengths, default=1)
    out: list[list[int]] = []
    start = 0
    while start < len(order):
        stop = start + max(1, budget // max(1, lengths[order[start]]))
        out.append(order[start:stop])
        start = stop
    return out
