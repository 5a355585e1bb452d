"""The folder of one run: who holds it, what was asked for, and how it ended."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lumbre import distributed
from lumbre.config import Config, dump
from lumbre.errors import ExitStatus, LumbreError, RunFolderError
from lumbre.files import explained, write_json, write_text
from lumbre.peers import told
from lumbre.world import restart

EXIT_FILE = "exit.json"
CONFIG_FILE = "config.yaml"
LOOK_SECONDS = 0.2


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
        except RunFolderError as error:
            fault = str(error)
    fault = distributed.from_main(fault)
    if fault:
        raise RunFolderError(fault)
    try:
        yield folder
    except KeyboardInterrupt:
        record_exit(folder, ExitStatus.STOPPED, "interrupted")
        raise
    except Exception as error:
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
    file = folder / EXIT_FILE
    record = {"status": int(status), "reason": reason, "rank": rank, "step": step, "time": time.time()}
    if status == ExitStatus.DONE:
        if rank == 0:
            write_json(file, record)
        return
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


def _lock(folder: Path) -> IO[str]:
    stream = (folder / ".lock").open("a+")
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
