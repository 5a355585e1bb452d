"""How long to train, in which portions, and how often to look."""

from collections.abc import Iterator

from pydantic import PositiveInt

from lumbre import distributed
from lumbre.config import Config
from lumbre.errors import Problem


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

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """The global and the micro batch size, the one that was left out derived."""
        ranks = distributed.world().size
        total, micro, times = self.global_batch_size, self.micro_batch_size, self.accumulation_steps
        if total is None and micro is not None:
            total = micro * (times or 1) * ranks
        elif micro is None and total is not None:
            micro = max(1, total // ((times or 1) * ranks))
        assert total is not None
        assert micro is not None
        return total, micro

    def problems(self) -> Iterator[Problem]:
        """Show the arithmetic where the batch sizes do not fit the number of processes."""
        given = [self.global_batch_size, self.micro_batch_size, self.accumulation_steps]
        if sum(size is not None for size in given) < 2:
            remedy = "set two of global_batch_size, micro_batch_size and accumulation_steps"
            yield Problem("global_batch_size", "the batch is not determined", remedy)
            return
        total, micro = self.batch_sizes
        ranks = distributed.world().size
        times = self.accumulation_steps or max(1, total // (micro * ranks))
        if micro * times * ranks != total:
            fault = (
                f"{total} is not micro_batch_size x accumulation_steps x processes "
                f"= {micro} x {times} x {ranks} = {micro * times * ranks}"
            )
            remedy = f"a multiple of micro_batch_size x processes = {micro * ranks} fits"
            yield Problem("global_batch_size", fault, remedy)


class TrainConfig(BatchConfig):
    """How long to train and in which portions."""

    steps: PositiveInt
    """Optimizer steps of the whole run."""
