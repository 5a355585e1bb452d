"""Where the ranks of a run meet before there is a process group, and who has not come."""

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from lumbre.errors import RendezvousError
from lumbre.world import World

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

MOST_NAMED = 8


def meet(here: World, seconds: float) -> "Store":
    """Wait until every rank has come to torchrun's store, at most so long; return the store.

    Raises RendezvousError, which names the ranks that have not come.
    """
    from torch.distributed import DistError
    from torch.distributed.rendezvous import rendezvous

    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    # A restart under the same agent must not find who came to the last attempt.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = [f"lumbre/{attempt}/rank-{rank}" for rank in range(here.size)]
    began = time.monotonic()
    store: Store
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
        store.set(keys[here.rank], os.uname().nodename)
    except DistError as error:
        raise RendezvousError(
            f"rank {here.rank} on {os.uname().nodename} cannot reach {place}, where the ranks meet, "
            f"for {seconds:.0f} s: rank 0's host is not up, or MASTER_ADDR, MASTER_PORT or a firewall "
            f"is in the way ({str(error).splitlines()[0]})",
            rank=0,
        ) from error
    left = max(1.0, seconds - (time.monotonic() - began))
    try:
        store.wait(keys, timedelta(seconds=left))
    except DistError as error:
        come = [rank for rank, key in enumerate(keys) if store.check([key])]
        missing = [rank for rank in range(here.size) if rank not in come]
        if missing:
            told = _told(missing, come, store, keys, seconds) if here.rank == come[0] else ""
            raise RendezvousError(told, rank=missing[0]) from error
    return store


def _told(missing: list[int], come: list[int], store: "Store", keys: list[str], seconds: float) -> str:
    hosts = [f"rank {rank} on {store.get(keys[rank]).decode()}" for rank in come[:MOST_NAMED]]
    late = ", ".join(map(str, missing[:MOST_NAMED])) + (" ..." if len(missing) > MOST_NAMED else "")
    word = "rank" if len(missing) == 1 else "ranks"
    return (
        f"{word} {late} of {len(keys)} did not come within {seconds:.0f} s "
        f"(train.watchdog.rendezvous_seconds); there: {', '.join(hosts)}"
        f"{' ...' if len(come) > MOST_NAMED else ''}. Look whether the process was started, and what it "
        "says: importing from a slow disk, or stopped"
    )
