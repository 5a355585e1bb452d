"""This process among the processes of the run, without torch."""

import ctypes
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
ENDINGS = "LUMBRE_ENDINGS"
"""The file in which an agent tells a launcher how its ranks ended; see `lumbre.elastic`."""

RESTART = "LUMBRE_RESTART"
"""What a launcher tells a run that it has started again; see `Restart`."""
RANK_VARIABLES = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", ENDINGS, RESTART),
}
"""What torchrun and its like tell a process, beside TORCHELASTIC_..., and our launchers."""

EXPECTED_RUNS = "LUMBRE_EXPECTED_RUNS"
"""Run folders, as a JSON list, that earlier jobs of a chain will have filled when this one starts."""


@dataclass(frozen=True)
class Place:
    """One of several equal parts."""

    index: int
    count: int


@dataclass(frozen=True)
class Restart:
    """Why a run was started again by its launcher."""

    cause: str
    """Which restart this is of how many, and how the attempt before it ended."""
    patience_seconds: float
    """How long what is left of that attempt, on a host that was cut off, may hold the run folder."""

    def environment(self) -> dict[str, str]:
        """Return the variable that tells the ranks."""
        return {RESTART: json.dumps([self.cause, self.patience_seconds])}


def restart() -> Restart | None:
    """Return why this run was started again; None where a person started it."""
    told = os.environ.get(RESTART)
    return Restart(*json.loads(told)) if told else None


@dataclass(frozen=True)
class World:
    """This process's place among the processes of the run."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for the run: prints, tracks and writes what is written once."""
        return self.rank == 0

    def group(self, ranks: int) -> Place:
        """Return which of the groups of so many neighbouring ranks this process is in."""
        return Place(self.rank // ranks, self.size // ranks)

    def within_group(self, ranks: int, apart: int = 1) -> Place:
        """Return this process's place in its group of so many ranks, neighbours or so far apart."""
        return Place(self.rank // apart % ranks, ranks)


def world() -> World:
    """Return this process's place as torchrun, srun wrappers or nothing (one process) state it."""

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    return World(
        number("RANK", 0), number("WORLD_SIZE", 1), number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", 1)
    )


def environment_of_one() -> dict[str, str]:
    """Return this process's environment without what makes it a rank of a run."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in RANK_VARIABLES and not name.startswith("TORCHELASTIC_")
    }


@contextmanager
def as_one_process() -> Iterator[None]:
    """See, while the context lasts, one process and no run that it is a rank of."""
    before = dict(os.environ)
    for name in before.keys() - environment_of_one().keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def die_with_parent(by: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Ask Linux to end this process when its parent ends, so that a killed job leaves no orphans.

    Where the parent's number is given and it has ended before it could be asked for, this process ends now.
    """
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
    except (OSError, AttributeError):
        return
    if parent not in (None, os.getppid()):
        os._exit(1)


def is_expected(path: Path) -> bool:
    """Whether an earlier job of the chain, which has not run yet, will leave the path in its run folder."""
    folders = map(Path, json.loads(os.environ.get(EXPECTED_RUNS, "[]")))
    return any(path.absolute().is_relative_to(folder) for folder in folders)
