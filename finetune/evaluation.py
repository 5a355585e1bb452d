"""A task's metrics on a whole split."""

from collections.abc import Mapping, Sequence

import numpy as np

from lumbre import distributed
from lumbre.engine import Engine

from .tasks import Task


class TaskEvaluator:
    """Predicts every example once over all ranks, and scores them together."""

    def __init__(self, task: Task, rows: Sequence[Mapping[str, np.ndarray]], batch_size: int) -> None:
        self._task = task
        # Like lengths together: less padding, and nothing else depends on the order.
        order = sorted(range(len(rows)), key=lambda at: len(rows[at]["input_ids"]))
        spans = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self._batches = [task.collate([rows[at] for at in span]) for span in spans]

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return the task's metrics, and the mean loss."""
        world = distributed.world()
        predicted: list[list[float]] = []
        for turn in range(0, len(self._batches), world.size):
            # Every rank runs every turn: ZeRO 3 gathers parameters in the forward pass.
            mine = turn + world.rank
            batch = self._batches[mine if mine < len(self._batches) else 0]
            on_device = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            predictions, losses = self._task.predict(engine.forward(), on_device)
            if mine < len(self._batches):
                rows = zip(predictions.tolist(), batch["labels"].tolist(), losses.tolist(), strict=True)
                predicted += [list(row) for row in rows]
        table = np.array([row for part in distributed.gather_objects(predicted) for row in part])
        metrics = self._task.score(table[:, 0], table[:, 1])
        return {**metrics, "loss": float(table[:, 2].mean())}
