"""Processes of a run: all killed at one moment, and none left behind."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from launch.signals import family_of

PATIENCE_SECONDS = 120
"""Many times what it takes; for machines with much else to do."""


def kill_family(pid: int) -> None:
    """Kill a process and all below it at one moment: nobody gets to react to another's end."""
    stopped: set[int] = set()
    while new := set(family_of(pid)) - stopped:
        for member in new:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGSTOP)
        stopped |= new
    for member in stopped:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def processes_in(folder: Path) -> list[str]:
    """Return the command line of every process that works in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # What has ended, zombies too, has no working folder.
        with suppress(OSError):
            if (process / "cwd").resolve(strict=True) == folder.resolve():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def assert_nobody_works_in(folder: Path) -> None:
    """Wait for those that are ending; assert that they do."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while (found := processes_in(folder)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert found == []
