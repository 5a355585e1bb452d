"""Processes that make micro batches ahead of time, run by torch's DataLoader."""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lumbre.errors import DataError
from lumbre.world import die_with_parent

Arrays = Mapping[str, np.ndarray]
Sample = Callable[[int], Arrays]
"""From the index of a sample in the global stream to its row; a pure function."""


def stacked(sample: Sample, indices: Sequence[int]) -> Arrays:
    """Return samples as the arrays of a batch."""
    rows = [sample(index) for index in indices]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return batch | {"sample": np.array(indices, dtype=np.int64)}


def made_by_workers(
    sample: Sample, wanted: Callable[[], Iterator[range]], workers: int, tell: Callable[[str], None]
) -> Generator[Arrays]:
    """Yield the wanted micro batches in order, made by so many processes; close it to end them.

    Arrays travel through pipes: tensors would travel through shared memory, and stay there after a kill.
    Where a worker dies, as one does when memory is short, fresh ones go on where it left off, and `tell` is
    told. Raises what making a batch raised, and DataError where fresh workers die before they have made one.
    """
    done, before = 0, -1
    while True:
        loader: Any = DataLoader(
            _MicroBatches(sample),
            batch_size=None,
            sampler=_Rest(wanted, done),
            num_workers=workers,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",
            worker_init_fn=partial(_begin, os.getpid()),
            generator=torch.Generator(),
        )
        batches = iter(loader)
        try:
            while True:
                try:
                    made = next(batches, None)
                except RuntimeError as error:  # what DataLoader raises for a worker that is gone
                    if done == before:
                        remedy = "lower data.loader_workers, or look for what ends them (memory?)"
                        raise DataError(
                            f"loader: its processes end by themselves: {error}; {remedy}"
                        ) from error
                    tell(f"{error}; fresh ones go on where it left off")
                    before = done
                    break
                if made is None:
                    return
                if isinstance(made, Exception):
                    raise made
                yield made
                done += 1
        finally:
            del batches  # which ends the workers; an error's traceback would keep them


class _MicroBatches(Dataset[Any]):
    """From samples to their arrays, or to the error that there was."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def __getitem__(self, indices: Any) -> Arrays | Exception:
        try:
            return stacked(self._sample, indices)
        except Exception as error:
            return error


class _Rest(Sampler[Any]):
    """What is wanted and not yet done."""

    def __init__(self, wanted: Callable[[], Iterator[range]], done: int) -> None:
        self._wanted = wanted
        self._done = done

    def __iter__(self) -> Iterator[range]:
        return islice(self._wanted(), self._done, None)


def _as_it_is(made: Any) -> Any:
    return made


def _begin(parent: int, _: int) -> None:
    """Leave signals to the training process, which saves before it stops, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL, parent)
