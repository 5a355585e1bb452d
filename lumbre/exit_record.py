"""exit.json: how a run ended, for torchrun turns every status into 1."""

import fcntl
import json
import os
import time
from pathlib import Path

from lumbre.errors import ExitStatus

EXIT_FILE = "exit.json"
LOCK_FILE = ".lock"


def record_failure(
    folder: Path, status: ExitStatus, reason: str, *, rank: int, step: int | None = None
) -> None:
    """Write exit.json if there is none: the first cause wins over what followed from it on other ranks."""
    file = folder / EXIT_FILE
    record = {"status": int(status), "reason": reason, "rank": rank, "step": step, "time": time.time()}
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError:
        return
    try:
        os.write(handle, json.dumps(record).encode())
    except OSError:
        # The disk has no room even for this; an empty record would be taken for one.
        file.unlink()
    finally:
        os.close(handle)


def record_early_failure(
    folder: Path, status: ExitStatus, reason: str, *, rank: int, step: int | None = None
) -> None:
    """Record how a job ended that does not hold the run folder yet; a job that holds it is let be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK_FILE).open("a") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What an earlier job left is not this one's end.
            (folder / EXIT_FILE).unlink(missing_ok=True)
            record_failure(folder, status, reason, rank=rank, step=step)
    except OSError:
        return
