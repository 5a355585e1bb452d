"""How long to train, in which portions, and how often to look."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem
from lumbre.trainer.non_finite import NonFiniteConfig
from lumbre.watchdog.config import WatchdogConfig


class BatchConfig(Config):
    """In which portions to train, and how often to look."""

    global_batch_size: PositiveInt | None = None
    """Samples per optimizer step over all ranks. State two of global, micro and accumulation."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass of one rank."""
    accumulation_steps: PositiveInt | None = None
    """Forward passes of one rank per optimizer step."""
    log_every: PositiveInt = 10
    """Steps between training rows in metrics.jsonl and the trackers."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations; none: only at the end."""
    non_finite: NonFiniteConfig = NonFiniteConfig()
    """What happens to steps whose loss or gradient is NaN or infinite."""
    spikes: Literal["tell", "roll_back", "quarantine"] = "tell"
    """What a jump of the loss brings: tell leaves it at an event; roll_back takes the weights of the last
    checkpoint and goes on past the data after it. quarantine (pretraining) looks at each document of each
    step, leaves those that stand far out for the rest of the run before they are learned from, and rolls
    back where the loss jumps without such documents."""
    roll_backs: NonNegativeInt = 3
    """How often a run may go back to its last checkpoint: then what is not finite stops it, and spikes do
    not."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """How long the run may stand still before it is ended."""

    def sizes(self, groups: int) -> tuple[int, int]:
        """Return the global and the micro batch size, the one that was left out derived.

        `groups` of ranks each take samples of their own.
        """
        total, micro, times = self.global_batch_size, self.micro_batch_size, self.accumulation_steps
        if total is None and micro is not None:
            total = micro * (times or 1) * groups
        elif micro is None and total is not None:
            micro = max(1, total // ((times or 1) * groups))
        assert total is not None
        assert micro is not None
        return total, micro

    @property
    def is_determined(self) -> bool:
        """Whether two of the three sizes are stated, or all."""
        given = [self.global_batch_size, self.micro_batch_size, self.accumulation_steps]
        return sum(size is not None for size in given) >= 2

    def problems(self) -> Iterator[Problem]:
        """Report sizes that do not determine the batch."""
        if not self.is_determined:
            remedy = "set two of global_batch_size, micro_batch_size and accumulation_steps"
            yield Problem("global_batch_size", "the batch is not determined", remedy)

    def misfits(self, groups: int, called: str) -> Iterator[Problem]:
        """Show the arithmetic where the batch does not fit the groups of ranks, and what these are called."""
        if not self.is_determined:
            return
        total, micro = self.sizes(groups)
        times = self.accumulation_steps or max(1, total // (micro * groups))
        if micro * times * groups != total:
            fault = (
                f"{total} is not micro_batch_size x accumulation_steps x {called} "
                f"= {micro} x {times} x {groups} = {micro * times * groups}"
            )
            yield Problem("global_batch_size", fault, self._remedy(total, micro, groups, called))

    def _remedy(self, total: int, micro: int, groups: int, called: str) -> str:
        """Return which number to change to what: the nearest that fit, each beside the others as they are."""
        stated = self.micro_batch_size is not None, self.accumulation_steps is not None
        sizes = (("micro_batch_size", micro), ("accumulation_steps", self.accumulation_steps or 1))
        names = [name for (name, _), kept in zip(sizes, stated, strict=True) if kept]
        per_group = prod(size for (_, size), kept in zip(sizes, stated, strict=True) if kept)
        unit = per_group * groups
        near = _choice([size for size in (total // unit * unit, (total // unit + 1) * unit) if size])
        product = f"{' x '.join([*names, called])} = {unit}"
        remedy = f"{product} fits" if all(stated) else f"a multiple of {product} fits, such as {near}"
        others = []
        share, rest = divmod(total, groups * (self.accumulation_steps or 1))
        if stated[0] and not rest and share:
            fitting = [share] if stated[1] else [size for size in range(1, micro) if not share % size]
            others.append(f"micro_batch_size {fitting[-1]}")
        if not total % per_group:
            most = total // per_group
            counts = [count for count in range(1, most + 1) if not most % count]
            counts = counts[-1:] if all(stated) else counts
            below, above = (
                [count for count in counts if count < groups][-1:],
                [count for count in counts if count > groups][:1],
            )
            others.append(f"{called} = {_choice([*below, *above])}")
        return f"{remedy}; {total} fits with {', or '.join(others)}" if others else remedy


def _choice(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


class TrainConfig(BatchConfig):
    """How long to train and in which portions."""

    steps: PositiveInt
    """Optimizer steps of the whole run."""

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after so many steps."""
        return step == self.steps or (
            step > 0 and self.eval_every is not None and step % self.eval_every == 0
        )
