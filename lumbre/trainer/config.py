"""How long to train, in which portions, and how often to look."""

from collections.abc import Iterator
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
            remedy = f"a multiple of micro_batch_size x {called} = {micro * groups} fits"
            yield Problem("global_batch_size", fault, remedy)


class TrainConfig(BatchConfig):
    """How long to train and in which portions."""

    steps: PositiveInt
    """Optimizer steps of the whole run."""
