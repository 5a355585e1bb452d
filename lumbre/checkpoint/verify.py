"""Is a checkpoint whole? Every file has the size and the SHA-256 that the manifest says."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lumbre.checkpoint.manifest import listed
from lumbre.files import sha256

THREADS = 4
"""Files that are hashed at once; hashlib lets go of Python's lock."""


def verify(folder: Path, rank: int = 0, size: int = 1) -> list[str]:
    """Return what is wrong with a checkpoint, a line for each fault; empty when it is whole.

    Of `size` ranks that share the work, each looks at the files of its own number; a file is never held
    in memory.
    """
    files, fault = listed(folder)
    if fault:
        return [fault]
    # The greatest first, so that ranks have about as much to read.
    mine = sorted(files, key=lambda name: (-files[name][0], name))[rank::size]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        found = threads.map(lambda name: _fault(folder / name, *files[name]), mine)
        return sorted(one for one in found if one)


def verify_all(folders: Iterable[Path]) -> dict[Path, list[str]]:
    """Return the faults of each checkpoint; one that a live run has removed meanwhile is left out."""
    folders = list(folders)
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        found = dict(zip(folders, threads.map(verify, folders), strict=True))
    return {folder: faults for folder, faults in found.items() if folder.is_dir()}


def _fault(file: Path, size: int, digest: str) -> str:
    try:
        if not file.is_file():
            return f"{file.name}: is missing"
        if file.stat().st_size != size:
            return f"{file.name}: has {file.stat().st_size} bytes, the manifest says {size}"
        if sha256(file) != digest:
            return f"{file.name}: its SHA-256 is not the manifest's"
    except OSError as error:
        return f"{file.name}: cannot be read: {(error.strerror or str(error)).lower()}"
    return ""
