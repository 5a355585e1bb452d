"""Files that are whole or absent: atomic writes, hashes, and errors of the disk explained."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumbre.errors import RunFolderError


def write_text(file: Path, text: str) -> None:
    """Write through a temporary file and a rename, so that a reader sees the old text or the new."""
    with explained(file):
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)


def write_json(file: Path, value: Any) -> None:
    """Write JSON as `write_text` does, keys in their order."""
    write_text(file, json.dumps(value, indent=1) + "\n")


def sha256(file: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Ask the disk to hold the file, or the names in the folder, before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a RunFolderError that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: ("the disk is full", "free some space, then run the same command again"),
            errno.EDQUOT: ("the disk quota is used up", "free some space, then run the same command again"),
            errno.ENOENT: ("no folder can be made there", "choose another folder"),
            errno.EROFS: ("the disk is read-only", "set runs_folder to a folder that can be written"),
            errno.EACCES: ("permission denied", "set runs_folder to a folder that can be written"),
            errno.EPERM: ("permission denied", "set runs_folder to a folder that can be written"),
            errno.ENOTDIR: ("a file stands where a folder is needed", "move it away, or choose another name"),
            errno.EEXIST: ("a file stands where a folder is needed", "move it away, or choose another name"),
        }
        if error.errno not in reasons:
            raise
        fault, remedy = reasons[error.errno]
        raise RunFolderError(f"{path}: {fault}; {remedy}") from error
