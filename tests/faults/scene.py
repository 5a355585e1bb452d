"""One supervised run of several processes, as somebody sees it who is about to do it harm."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.signals import family_of
from lumbre.checkpoint import verify
from lumbre.tracking import jsonl
from tests.faults.processes import assert_nobody_works_in

PATIENCE_SECONDS = 600.0
"""How long the run may take to come to where it is wanted, on a machine with much else to do."""
LOOK_SECONDS = 0.003
FULL_DISK = 2
"""The exit status of a run that ended over one: it is somebody's to free space."""


@dataclass
class Scene:
    """The launcher, its ranks, and the run folder that they write."""

    start: Callable[[], "subprocess.Popen[str]"]
    """Runs the command that somebody would run again."""
    run: Path
    log: Path
    chance: random.Random
    spared: set[tuple[int, str]] = field(default_factory=set)
    """Ranks of attempts that have been ended already. A system gives numbers of processes again."""
    harmed: list[str] = field(default_factory=list)
    """Checkpoints that were damaged on purpose."""
    starved: bool = False
    """Whether the disk was full since the command was last run: the run may end over it, and is run again."""

    def __post_init__(self) -> None:
        self.launcher = self.start()

    def rows(self) -> list[dict[str, Any]]:
        """Return what the run has logged so far."""
        return jsonl.read(self.run / "metrics.jsonl")

    def step(self) -> int:
        """Return the last step that the run has logged; 0 before its first."""
        return max((row["step"] for row in self.rows() if "loss" in row), default=0)

    def ranks(self) -> dict[int, int]:
        """Return the processes of the present attempt by rank."""
        found = {}
        for pid in family_of(self.launcher.pid):
            with suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                rank = [value[5:] for value in environment if value.startswith(b"RANK=")]
                # Workers of a rank have its variables too, but another parent than the agent.
                if rank and b"lumbre.cli" in command and born(pid) not in self.spared:
                    found.setdefault(int(rank[0]), pid)
        return found

    def is_saving(self) -> bool:
        """Whether a checkpoint is on its way in or out."""
        return any((self.run / "checkpoints").glob(".step-*"))

    def whole(self) -> list[Path]:
        """Return the checkpoints that have a name and are whole, the latest first."""
        folders = sorted((self.run / "checkpoints").glob("step-*"), reverse=True)
        return [folder for folder in folders if folder.is_dir() and verify(folder) == []]

    def damaged(self) -> list[str]:
        """Return the checkpoints that have a name and are not whole, though nobody has harmed them."""
        folders = sorted((self.run / "checkpoints").glob("step-*"))
        # One that is rotated away meanwhile is not damaged.
        bad = [folder.name for folder in folders if verify(folder) and folder.is_dir()]
        return [name for name in bad if name not in self.harmed]

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds; return False where the launcher has ended before."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.has_ended():
                return False
            assert time.monotonic() < until, "the run does not come to where it is wanted"
            time.sleep(LOOK_SECONDS)
        return not self.has_ended()

    def has_ended(self) -> bool:
        """Whether the launcher has ended, for another reason than a disk that had no space for a while."""
        status = self.launcher.poll()
        if status == FULL_DISK and self.starved:
            self.run_again("the disk was full")
            return False
        return status is not None

    def run_again(self, why: str) -> None:
        """Run the same command, as somebody would, when nothing of the last one is left."""
        with self.log.open("a") as out:
            out.write(f"{why} at step {self.step()}; restart by the same command\n")
        assert_nobody_works_in(self.run.parent.parent)
        self.starved = False
        self.launcher = self.start()

    def spare(self, ranks: dict[int, int]) -> None:
        """Count these no more as ranks of the present attempt."""
        for pid in ranks.values():
            with suppress(OSError):
                self.spared.add(born(pid))

    def kill(self, ranks: list[int]) -> None:
        """Kill these ranks at one moment, and count all of the attempt as gone."""
        present = self.ranks()
        self.spare(present)
        for rank in ranks:
            if rank in present:
                signalled(present[rank], signal.SIGKILL)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the ranks while the context lasts, so that what is on the disk holds still."""
        present = list(self.ranks().values())
        for pid in present:
            signalled(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in present:
                signalled(pid, signal.SIGCONT)


def born(pid: int) -> tuple[int, str]:
    """Return a process's number, and when it began in the system's ticks; raises OSError where it is gone."""
    return pid, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def signalled(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
