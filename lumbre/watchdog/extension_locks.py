"""Locks that a killed compilation of an op has left, for which torch would wait for ever without a word."""

import fcntl
import os
import sys
from pathlib import Path

LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "overlay", "zfs"}
"""File systems of one machine, whose kernel knows everyone that has a file open."""


def extensions_folder() -> Path:
    """Return where torch compiles extensions, as torch itself finds it."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/torch_extensions")


def lock_files(folder: Path) -> list[Path]:
    """Return the locks of the compilations that are going on below the folder, or seem to be."""
    return sorted([*folder.glob("*/lock"), *folder.glob("*/*/lock")])


def clear_stale_locks(folder: Path) -> list[Path]:
    """Remove the locks below the folder whose owners are certainly dead; return them.

    A compilation keeps its lock file open until it has ended. The kernel grants a write lease on a file
    that nobody else has open, in this container or another one, and refuses it otherwise; on a network file
    system it cannot know, and such a lock is left.
    """
    if not folder.is_dir() or not hasattr(fcntl, "F_SETLEASE") or _kind(folder) not in LOCAL:
        return []
    removed = []
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Two that clear at once might take a lock that a third has made between for the one they looked at.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for lock in lock_files(folder):
            if _is_nobodys(lock):
                lock.unlink(missing_ok=True)
                removed.append(lock)
                print(f"removed {lock}: the process that compiled there is dead", file=sys.stderr)
    finally:
        os.close(descriptor)
    return removed


def _is_nobodys(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _kind(folder: Path) -> str:
    """Return the kind of the file system that a folder is on, "" where it is not told."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    kinds = [line.rpartition(" - ")[2].split()[0] for line in lines if line.split()[2] == wanted]
    return kinds[-1] if kinds else ""
