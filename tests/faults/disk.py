"""A small disk of its own, in memory, that can be filled and made read-only; needs root and mount."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class CannotMountError(Exception):
    """Why there can be no such disk here."""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk at a new folder; raises CannotMountError where that is not permitted."""
    folder.mkdir()
    if shutil.which("mount") is None:
        raise CannotMountError("there is no mount here")
    done = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if done.returncode:
        raise CannotMountError(f"a disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted disk."""
    done = _mount("-o", f"remount,{options}", str(folder))
    assert done.returncode == 0, done.stderr


def fill(file: Path) -> None:
    """Take all the space that the disk of a new file has left."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def _mount(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
