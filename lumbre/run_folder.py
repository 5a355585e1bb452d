"""The folder of one run: who holds it, what was asked for, and how it ended."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lumbre import distributed
from lumbre.config import Config, dump
from lumbre.errors import ExitStatus, LumbreError, RunFolderError
from lumbre.exit_record import EXIT_FILE, LOCK_FILE, record_failure
from lumbre.files import explained, write_json, write_text
from lumbre.peers import is_lost_peer, told
from lumbre.watchdog.exchange import close_exchange, open_exchange
from lumbre.watchdog.watch import claimed
from lumbre.world import restart

CONFIG_FILE = "config.yaml"
LOOK_SECONDS = 0.2
CAUSE_SECONDS = 3.0
"""How long a rank that has lost another waits for the record of that one's end."""


@contextmanager
def claim(folder: Path) -> Iterator[Path]:
    """Hold the run folder for this job, and record in exit.json how the job ends.

    Every rank calls; the main rank holds the lock. Raises RunFolderError on every rank where another
    job holds the folder or it cannot be written; the other job is unharmed. A run that its launcher has
    started again waits for what is left of the attempt before it.
    """
    lock: IO[str] | None = None
    fault = ""
    if distributed.world().is_main:
        try:
            with explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = _lock(folder)
                (folder / EXIT_FILE).unlink(missing_ok=True)
                open_exchange(folder)
        except RunFolderError as error:
            fault = str(error)
    fault = distributed.from_main(fault)
    if fault:
        raise RunFolderError(fault)
    try:
        with claimed():
            yield folder
        if lock is not None:
            close_exchange(folder)
    except KeyboardInterrupt:
        record_exit(folder, ExitStatus.STOPPED, "interrupted")
        raise
    except Exception as error:
        if is_lost_peer(error):
            # A rank that has died is the cause, and its own helper is about to record that.
            _wait_for_record(folder)
        status = error.exit_status if isinstance(error, LumbreError) else ExitStatus.BUG
        record_exit(folder, status, told(error))
        raise
    finally:
        if lock is not None:
            lock.close()


def write_config(folder: Path, config: Config) -> None:
    """Write config.yaml, the resolved config; the main rank does."""
    if distributed.world().is_main:
        write_text(folder / CONFIG_FILE, dump(config))


def record_exit(folder: Path, status: ExitStatus, reason: str, step: int | None = None) -> None:
    """Write exit.json; the first cause of a failure wins over what followed from it on other ranks."""
    rank = distributed.world().rank
    if status != ExitStatus.DONE:
        record_failure(folder, status, reason, rank=rank, step=step)
    elif rank == 0:
        record = {"status": int(status), "reason": reason, "rank": rank, "step": step, "time": time.time()}
        write_json(folder / EXIT_FILE, record)


def _wait_for_record(folder: Path) -> None:
    latest = time.monotonic() + CAUSE_SECONDS
    while time.monotonic() < latest and not (folder / EXIT_FILE).exists():
        time.sleep(0.05)


def _lock(folder: Path) -> IO[str]:
    stream = (folder / LOCK_FILE).open("a+")
    again = restart()
    until = time.monotonic() + (again.patience_seconds if again else 0)
    while not _locked(stream, folder):
        if time.monotonic() >= until:
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            raise RunFolderError(
                f"{folder}: another job holds this run folder ({holder}); "
                "wait for it, stop it, or set another name"
            )
        time.sleep(LOOK_SECONDS)
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    stream.flush()
    return stream


def _locked(stream: IO[str], folder: Path) -> bool:
    """Try to take the lock; return whether no other process had it."""
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        stream.close()
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise RunFolderError(
            f"{folder}: its file system takes no locks ({error.strerror}), which keep two jobs apart; "
            "mount it with them, or set runs_folder to another one"
        ) from error
    return True
