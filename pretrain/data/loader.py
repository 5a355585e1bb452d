"""Batches ahead of time: samples of the global stream, cut for this rank, made by a thread or by processes.

Shapes: B rows of a micro batch, T tokens of a row.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Self

import torch

from .loader_workers import Arrays, Sample, made_by_workers, stacked
from .plan import Plan

Batch = dict[str, torch.Tensor]

HEAD_START_SECONDS = 0.005

IGNORED = -100
"""The label of what is no target; arrays of labels have names that end so."""


class Loader:
    """Yields, step after step, the list of this rank's micro batches.

    A step's samples are the plan's, and rank r of W takes the r-th of W equal runs of them. The whole state
    is the number of the next step. With `workers`, so many processes make the batches; they send them
    through pipes, leave nothing in shared memory, and end with this process. A failure is raised where the
    batch was due. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        sample: Sample,
        plan: Plan,
        *,
        rank: int,
        world_size: int,
        start_step: int,
        stop_step: int,
        prefetch_steps: int = 2,
        workers: int = 0,
        tell: Callable[[str], None] = lambda message: None,
    ) -> None:
        """`tell` is told of workers that died and were replaced, from another thread."""
        self.next_step = self._start_step = start_step
        self._stop_step = stop_step
        self._plan = plan
        self._rank = rank
        self._world_size = world_size
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=max(1, prefetch_steps))
        self._closing = threading.Event()
        for stage in plan.begun(stop_step):
            self._micro_batches(stage.after_step)
        self._made = (
            made_by_workers(sample, self._wanted, workers, tell) if workers else self._made_here(sample)
        )
        self._thread = threading.Thread(target=self._produce, args=(start_step,), name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if self.next_step >= self._stop_step or self._closing.is_set():
            raise StopIteration
        batches = self._ready.get()
        if isinstance(batches, BaseException):
            self.close()
            raise batches
        self.next_step += 1
        return batches

    def close(self) -> None:
        """Stop the background work and wait until nothing of it runs."""
        self._closing.set()
        while self._thread.is_alive():
            # A producer that waits for room in the queue gets it, and then sees that it is to stop.
            self._drain()
            self._thread.join(timeout=0.01)
        self._drain()
        self._made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _micro_batches(self, step: int) -> list[range]:
        """Return the samples of each of this rank's micro batches of a step."""
        taken = self._plan.step(step)
        share, rest = divmod(taken.global_batch_size, self._world_size)
        if rest or share % taken.micro_batch_size:
            raise ValueError(
                f"step {step + 1}: global_batch_size {taken.global_batch_size} is no multiple of "
                f"micro_batch_size {taken.micro_batch_size} x world size {self._world_size}"
            )
        first = taken.first + self._rank * share
        return [
            range(at, at + taken.micro_batch_size)
            for at in range(first, first + share, taken.micro_batch_size)
        ]

    def _wanted(self) -> Iterator[range]:
        for step in range(self._start_step, self._stop_step):
            yield from self._micro_batches(step)

    def _made_here(self, sample: Sample) -> Generator[Arrays]:
        yield from (stacked(sample, indices) for indices in self._wanted())

    def _produce(self, step: int) -> None:
        try:
            while step < self._stop_step and not self._closing.is_set():
                if not self._ready.empty():
                    # There is time: let the consumer get into its forward pass, where it does not
                    # need the interpreter, instead of fighting it for that.
                    time.sleep(HEAD_START_SECONDS)
                self._ready.put([_on_host(next(self._made)) for _ in self._micro_batches(step)])
                step += 1
        except BaseException as error:
            self._ready.put(error)

    def _drain(self) -> None:
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                return


def evaluation_batches(
    sample: Sample, *, num_rows: int, micro_batch_size: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """Yield this rank's micro batches of one pass over samples 0 to num_rows - 1, in order.

    Each rank takes a run of them, as equal as can be; the last batch of a rank may be smaller. Where a rank
    has a batch less than another, it yields sample 0 without a target, so that all ranks go through the
    model the same number of times.
    """
    first, last = (num_rows * place // world_size for place in (rank, rank + 1))
    longest = -(-num_rows // world_size)
    samples = range(first, last)
    for at in range(0, longest, micro_batch_size):
        if at < len(samples):
            yield _on_host(stacked(sample, samples[at : at + micro_batch_size]))
        else:
            batch = _on_host(stacked(sample, range(1)))
            labels = (name for name in batch if name.endswith("labels"))
            yield batch | {name: torch.full_like(batch[name], IGNORED) for name in labels}


def _on_host(arrays: Arrays) -> Batch:
    """Return the arrays as tensors, where there is a GPU in memory that it can read by itself."""
    batch = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return {key: value.pin_memory() for key, value in batch.items()} if torch.cuda.is_available() else batch
