"""The processes of one run: who they are, how they agree, and random numbers that no layout changes.

Nothing here imports torch at module level, so that configs can be checked without it.
"""

import gc
import hashlib
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lumbre import watchdog
from lumbre.rendezvous import meet
from lumbre.world import Place as Place
from lumbre.world import World as World
from lumbre.world import die_with_parent
from lumbre.world import world as world

if TYPE_CHECKING:
    import torch


TIMEOUT_SECONDS = 1800.0
"""How long a collective waits for the other ranks."""


class Stream(IntEnum):
    """What a counter-based random number is for: the first counter of `random`."""

    ORDER = 0
    NOISE = 1
    EVALUATION_NOISE = 2
    FORWARD = 3


@contextmanager
def session(
    seed: int, *, timeout_seconds: float = TIMEOUT_SECONDS, rendezvous_seconds: float = 600.0
) -> Iterator[World]:
    """Join the run's process group (NCCL on CUDA, gloo elsewhere), seed torch, and leave at the end.

    The initial weights of a model come from torch's generator, so every rank gets the same seed.
    Raises RendezvousError where a rank does not come in time.
    """
    import torch

    here = world()
    if here.size > 1:
        die_with_parent()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(here.local_rank)
    # Libraries that find DeepSpeed installed ask it for its device, which it would guess, and warn.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    if here.size > 1:
        with watchdog.during("meeting the other ranks"):
            store = meet(here, rendezvous_seconds)
            torch.distributed.init_process_group(
                backend,
                store=store,
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(seconds=timeout_seconds),
            )
    torch.manual_seed(seed)
    try:
        yield here
    finally:
        # gloo's threads may still run, and abort a process that takes them down: see `leave`.
        if torch.distributed.is_initialized() and (backend == "nccl" or here.size == 1):
            torch.distributed.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End the program; one rank of several ends without C++'s own clean-up, which gloo's threads abort."""
    watchdog.enter("ending")
    sys.stdout.flush()
    sys.stderr.flush()
    if world().size > 1:
        os._exit(code)
    # Python's last look for cycles goes over all that torch has made: a second, for memory that goes anyway.
    gc.freeze()
    sys.exit(code)


def device() -> "torch.device":
    """Return the device of this process: its CUDA device, Apple's GPU, or the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", world().local_rank)
    if world().size == 1 and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed_torch(seed: int, device: "torch.device") -> None:
    """Seed the generators that a forward pass on the device draws from.

    torch.manual_seed seeds every kind of device, and keeps a stack trace for each that is not in use.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def neighbours(ranks: int, apart: int = 1) -> "torch.distributed.ProcessGroup":
    """Return the process group of this rank and so many - 1 others next to it; every rank calls.

    They are neighbours, or so far `apart`, and others lie between.
    """
    import torch

    span = ranks * apart
    groups = [
        [first + apart * index for index in range(ranks)]
        for block in range(0, world().size, span)
        for first in range(block, block + apart)
    ]
    made: Any = torch.distributed.new_subgroups_by_enumeration
    group: torch.distributed.ProcessGroup = made(groups, timeout=timedelta(seconds=TIMEOUT_SECONDS))[0]
    return group


def counterparts(ranks: int) -> "torch.distributed.ProcessGroup":
    """Return the process group of the ranks with this one's place among their so many neighbours.

    Every rank calls.
    """
    return neighbours(world().size // ranks, apart=ranks)


def barrier() -> None:
    """Wait for every rank; nothing to do for one process."""
    import torch

    if torch.distributed.is_initialized():
        with watchdog.collective("barrier"):
            torch.distributed.barrier()


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Return the elementwise sum over ranks, in float64 (exact for counts below 2**53)."""
    import torch

    if not torch.distributed.is_initialized():
        return list(values)
    where = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(list(values), dtype=torch.float64, device=where)
    with watchdog.collective("sum over ranks"):
        torch.distributed.all_reduce(total)
    return [float(value) for value in total.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """Return every rank's small picklable value, in rank order, on every rank."""
    import torch

    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    with watchdog.collective("gather objects"):
        torch.distributed.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Return rank 0's small picklable value on every rank."""
    import torch

    if not torch.distributed.is_initialized():
        return value
    values = [value]
    with watchdog.collective("broadcast from rank 0"):
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def word(seed: int, *counter: int) -> int:
    """Return a number below 2**63 that is a pure function of (seed, counter): a hash, where one will do."""
    name = struct.pack(f"<{1 + len(counter)}Q", seed, *counter)
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1


def random(seed: int, *counter: int) -> np.random.Generator:
    """Return a generator that is a pure function of (seed, counter): Philox (Salmon et al., SC 2011).

    Up to three non-negative counters below 2**64 name what is drawn, say (stream, sample). The lowest
    word of Philox's own counter is left to the generator, so streams never overlap below 2**64 blocks.
    """
    if len(counter) > 3:
        raise ValueError("at most three counters")
    words = np.array([0, *counter, *([0] * (3 - len(counter)))], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=words))
