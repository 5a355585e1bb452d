"""Batches ahead of time: samples of the global stream, cut for this rank, made by background threads.

Shapes: B rows of a micro batch, T tokens of a row.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import torch

Batch = dict[str, torch.Tensor]
Sample = Callable[[int], dict[str, np.ndarray]]
"""From the index of a sample in the global stream to its row; a pure function."""

HEAD_START_SECONDS = 0.005

IGNORED = -100
"""The label of a token that is no target."""


class Loader:
    """Yields, step after step, the list of this rank's micro batches.

    Step s takes the samples [s * G, (s + 1) * G) of the stream, G the global batch size, and rank r of W
    the r-th of W equal runs of them. The whole state is the number of the next step. A failure in a
    background thread is raised where the batch was due. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        sample: Sample,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        start_step: int,
        stop_step: int,
        prefetch_steps: int = 2,
        threads: int = 1,
    ) -> None:
        if global_batch_size % (micro_batch_size * world_size):
            raise ValueError(
                f"global_batch_size {global_batch_size} is no multiple of micro_batch_size "
                f"{micro_batch_size} x world size {world_size}"
            )
        self.next_step = start_step
        self._stop_step = stop_step
        self._sample = sample
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size
        self._rank = rank
        self._share = global_batch_size // world_size
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=max(1, prefetch_steps))
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(threads, "rows") if threads > 1 else None
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
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _produce(self, step: int) -> None:
        try:
            while step < self._stop_step and not self._closing.is_set():
                if not self._ready.empty():
                    # There is time: let the consumer get into its forward pass, where it does not
                    # need the interpreter, instead of fighting it for that.
                    time.sleep(HEAD_START_SECONDS)
                start = step * self._global_batch_size + self._rank * self._share
                samples = range(start, start + self._share)
                self._ready.put(
                    [
                        _batch(self._sample, samples[at : at + self._micro_batch_size], self._pool)
                        for at in range(0, self._share, self._micro_batch_size)
                    ]
                )
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
            yield _batch(sample, samples[at : at + micro_batch_size], None)
        else:
            batch = _batch(sample, range(1), None)
            yield batch | {"labels": torch.full_like(batch["labels"], IGNORED)}


def _batch(sample: Sample, indices: Sequence[int], pool: ThreadPoolExecutor | None) -> Batch:
    rows = list((pool.map if pool else map)(sample, indices))
    batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}
    batch["sample"] = torch.tensor(list(indices), dtype=torch.int64)
    if torch.cuda.is_available():
        batch = {key: value.pin_memory() for key, value in batch.items()}
    return batch
