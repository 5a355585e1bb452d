"""Loss and perplexity on the first samples of the validation split."""

import math
from typing import Protocol

from lumbre import distributed
from lumbre.engine import Engine
from lumbre.trainer import Batch

from .objectives import Objective


class Validation(Protocol):
    """Batches of the validation split in order, each a pure function of its index."""

    def evaluation_batch(self, start: int, stop: int) -> Batch:
        """Return samples [start, stop), noised the same way every time."""
        ...

    def __len__(self) -> int:
        """Return the number of samples."""
        ...


class LossEvaluator:
    """The objective's loss, the same whatever the number of ranks."""

    def __init__(self, objective: Objective, samples: Validation, limit: int, micro_batch_size: int) -> None:
        count = min(limit, len(samples))
        self._objective = objective
        self._samples = samples
        self._spans = [
            (start, min(start + micro_batch_size, count)) for start in range(0, count, micro_batch_size)
        ]

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return loss (nats per target) and perplexity over all ranks."""
        world = distributed.world()
        total = count = 0.0
        for turn in range(0, len(self._spans), world.size):
            # Every rank runs every turn: ZeRO 3 gathers parameters in the forward pass.
            mine = turn + world.rank
            start, stop = self._spans[mine if mine < len(self._spans) else 0]
            batch = self._samples.evaluation_batch(start, stop)
            batch = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            term = self._objective.loss(engine.forward(), batch).terms["loss"]
            if mine < len(self._spans):
                total += float(term.sum)
                count += term.count
        total, count = distributed.sum_over_ranks([total, count])
        loss = total / max(count, 1.0)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
