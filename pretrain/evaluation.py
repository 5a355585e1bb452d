"""Loss and perplexity on the first rows of the validation splits."""

import math
from collections.abc import Sequence

from lumbre import distributed
from lumbre.engine import Engine

from .data.loader import evaluation_batches
from .objectives import Objective
from .samples import ValidationSet


class LossEvaluator:
    """The objective's loss, the same whatever the number of ranks."""

    def __init__(self, objective: Objective, sets: Sequence[ValidationSet], micro_batch_size: int) -> None:
        self._objective = objective
        self._sets = sets
        self._micro_batch_size = micro_batch_size

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return loss (nats per target) and perplexity over all ranks, and of a mixture each set's loss.

        A mixture's loss is the mean of the sets' losses by their weights in the last stage.
        """
        losses = [self._loss(engine, one) for one in self._sets]
        loss = sum(one.weight * its for one, its in zip(self._sets, losses, strict=True))
        named = {
            f"loss/source/{one.name}": its for one, its in zip(self._sets, losses, strict=True) if one.name
        }
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **named}

    def _loss(self, engine: Engine, one: ValidationSet) -> float:
        world = distributed.world()
        total = count = 0.0
        for batch in evaluation_batches(
            one.sample,
            num_rows=one.num_rows,
            micro_batch_size=self._micro_batch_size,
            rank=world.rank,
            world_size=world.size,
        ):
            on_device = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            term = self._objective.loss(engine.forward(), on_device).terms["loss"]
            total += float(term.sum)
            count += term.count
        total, count = distributed.sum_over_ranks([total, count])
        return total / max(count, 1.0)
