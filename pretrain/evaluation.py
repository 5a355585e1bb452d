"""Loss and perplexity on the first samples of the validation split."""

import math

from lumbre import distributed
from lumbre.engine import Engine

from .data.loader import evaluation_batches
from .objectives import Objective
from .samples import Sample


class LossEvaluator:
    """The objective's loss, the same whatever the number of ranks."""

    def __init__(self, objective: Objective, sample: Sample, num_samples: int, micro_batch_size: int) -> None:
        self._objective = objective
        self._sample = sample
        self._num_samples = num_samples
        self._micro_batch_size = micro_batch_size

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return loss (nats per target) and perplexity over all ranks."""
        world = distributed.world()
        total = count = 0.0
        for batch in evaluation_batches(
            self._sample,
            num_rows=self._num_samples,
            micro_batch_size=self._micro_batch_size,
            rank=world.rank,
            world_size=world.size,
        ):
            on_device = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            term = self._objective.loss(engine.forward(), on_device).terms["loss"]
            total += float(term.sum)
            count += term.count
        total, count = distributed.sum_over_ranks([total, count])
        loss = total / max(count, 1.0)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
