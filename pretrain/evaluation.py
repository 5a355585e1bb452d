"""Loss and perplexity on the first rows of the validation splits."""

import math
from collections.abc import Sequence

from lumbre import distributed, watchdog
from lumbre.distributed import Place
from lumbre.engine import Engine

from .data.loader import evaluation_batches
from .data.parts import parts
from .objectives import Objective
from .samples import ValidationSet


class LossEvaluator:
    """The objective's loss, the same whatever the number of ranks."""

    def __init__(
        self,
        objective: Objective,
        sets: Sequence[ValidationSet],
        micro_batch_size: int,
        group: Place,
        within: Place,
    ) -> None:
        """Each `group` of ranks takes rows of its own, and of each row this rank the part `within`."""
        self._objective = objective
        self._sets = sets
        self._micro_batch_size = micro_batch_size
        self._group, self._within = group, within

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return loss (nats per target) and perplexity over all ranks, and of a mixture each set's loss.

        A mixture's loss is the mean of the sets' losses by their weights in the last stage. An objective's
        other terms, if it has some to measure, are `loss/TERM`.
        """
        losses = [self._losses(engine, one) for one in self._sets]
        loss, *others = (
            sum(one.weight * its[place] for one, its in zip(self._sets, losses, strict=True))
            for place in range(len(self._objective.measured))
        )
        terms = dict(zip(self._objective.measured[1:], others, strict=True))
        named = {
            f"source/{one.name}": its[0] for one, its in zip(self._sets, losses, strict=True) if one.name
        }
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            **{f"loss/{name}": value for name, value in {**terms, **named}.items()},
        }

    def _losses(self, engine: Engine, one: ValidationSet) -> list[float]:
        names = self._objective.measured
        totals, counts = [0.0] * len(names), [0.0] * len(names)
        for batch in evaluation_batches(
            parts(one.sample, self._within),
            num_rows=one.num_rows,
            micro_batch_size=self._micro_batch_size,
            rank=self._group.index,
            world_size=self._group.count,
        ):
            watchdog.enter("evaluating")
            on_device = {name: tensor.to(engine.device) for name, tensor in batch.items()}
            terms = self._objective.loss(engine.forward(), on_device).terms
            for place, name in enumerate(names):
                totals[place] += float(terms[name].sum)
                counts[place] += terms[name].count
        sums = distributed.sum_over_ranks([*totals, *counts])
        return [total / max(count, 1.0) for total, count in zip(sums, sums[len(names) :], strict=False)]
