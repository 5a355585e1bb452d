"""What is left of an attempt whose first process has ended: ranks that save, workers that end late."""

import signal
import time
from pathlib import Path

from .signals import send

MARK = "LUMBRE_ATTEMPT"
"""The variable by which the processes of one attempt are known, whoever their parents are."""
LOOK_SECONDS = 0.1


def marked(variable: str, value: str) -> list[int]:
    """Return the processes of this machine that have the variable with this value, where Linux tells them."""
    mark = f"{variable}={value}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def clear(attempt: str, patience_seconds: float) -> None:
    """Wait until no process of the attempt is left; what is left after the patience is killed."""
    until = time.monotonic() + patience_seconds
    while left := marked(MARK, attempt):
        if time.monotonic() > until:
            for pid in left:
                send(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
