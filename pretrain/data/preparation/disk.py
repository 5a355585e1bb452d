"""What preparation writes: whole files or none, a lock that one process holds, and a full disk explained."""

import errno
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lumbre import watchdog
from lumbre.errors import DataError

POLL_SECONDS = 0.1
REMIND_SECONDS = 60.0
TEMPORARY = ".tmp"
"""How the names of files end that are being written."""
BUSY = (errno.EACCES, errno.EAGAIN)
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would pass the size limit of this process or disk",
}
CLOSED = {
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


class Hashed:
    """A stream that is being written, and the SHA-256 of what has been."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def write(self, content: bytes | np.ndarray) -> None:
        """Append bytes, or an array's."""
        raw = content if isinstance(content, bytes) else content.data
        self._stream.write(raw)
        self._hash.update(raw)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """Write a file that is there in full when the context ends well, and not at all before."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(file: Path, content: bytes | np.ndarray) -> None:
    """Write a file that is there in full or not at all."""
    with whole_file(file) as stream:
        stream.write(content if isinstance(content, bytes) else content.data)


def clear_unfinished(folder: Path) -> None:
    """Remove what processes that were killed left of files that they wrote."""
    for left in folder.glob(f"*{TEMPORARY}"):
        left.unlink()


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a full or closed disk into a DataError with the remedy."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        if error.errno in FULL:
            remedy = "free some space or set data.folder to another disk, then run the same command again"
            raise DataError(f"{place}: {FULL[error.errno]}; {remedy}: what is done is kept") from error
        if error.errno in CLOSED:
            remedy = "set data.folder to a folder that can be written"
            raise DataError(f"{place}: {CLOSED[error.errno]}; {remedy}") from error
        raise


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares this folder, then keep the others waiting.

    The kernel frees the lock of a process that dies. Says on stderr whom it waits for.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a+") as lock:
        said = -REMIND_SECONDS
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in BUSY:
                    raise
            watchdog.enter("waiting for another process to prepare data")
            if time.monotonic() - said >= REMIND_SECONDS:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                print(f"waiting for {holder} to prepare {folder}", file=sys.stderr, flush=True)
                said = time.monotonic()
            time.sleep(POLL_SECONDS)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        lock.flush()
        yield
