"""A disk to swap to: this process's folder, which goes when the process ends, and the op that moves bytes."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lumbre import distributed
from lumbre.errors import ConfigError, Problem

KEY = "engine.offload.folder"
PREFIX = "lumbre-swap-"
LOCK = ".lock"
AFTER_US = 'cat > /dev/null; rm -rf -- "$0"'
"""What waits until this process ends, even by SIGKILL, and clears up after it."""


class SwapFolder:
    """A new folder in `parent` for this process alone, which goes when the process ends, however it ends."""

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"{PREFIX}{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        # Under its name only when it is locked: another process would take it for one that is left.
        new = parent / f".{self.path.name}"
        new.mkdir()
        lock = _locked(new / LOCK)
        assert lock is not None
        new.rename(self.path)
        remover = subprocess.Popen(
            ["sh", "-c", AFTER_US, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C and a launcher's signals are meant for the run.
            start_new_session=True,
        )
        self.close = weakref.finalize(self, _close, lock, remover)
        """Remove the folder now; it is removed at the latest when this object or the process is gone."""


def claim(folder: Path, needed: int) -> SwapFolder:
    """Make a folder for this process in `folder`, where it may write `needed` bytes; every rank calls.

    What processes that are gone have left there, as after a power cut, is removed first.
    Raises ConfigError on every rank where one cannot: missing, read-only, too small, no direct access.
    """
    swap: SwapFolder | None = None
    problem: Problem | None = None
    try:
        problem = _misfit(folder, needed)
        if problem is None:
            swap = SwapFolder(folder)
            problem = _indirect(swap.path)
    except OSError as error:
        fault = f"{folder}: {(error.strerror or str(error)).lower()}"
        problem = Problem(KEY, fault, "name a folder on the node's own disk that can be written")
    problems = list(dict.fromkeys(one for one in distributed.gather_objects(problem) if one is not None))
    if problems:
        if swap is not None:
            swap.close()
        raise ConfigError(problems)
    assert swap is not None
    return swap


def load_async_io() -> None:
    """Load DeepSpeed's op that reads and writes disks; the first run of an environment builds it.

    Every rank calls. Raises ConfigError where it cannot be built, and where another program builds it, or was
    killed while it did.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(extensions()))
    problem: Problem | None = None
    with _alone(Path(os.environ["TORCH_EXTENSIONS_DIR"])) as folder:
        try:
            _unlock(folder)
            if distributed.world().local_rank == 0 and not (folder / "async_io" / "async_io.so").exists():
                print(
                    f"DeepSpeed's op async_io is built in {folder}, once; it takes minutes", file=sys.stderr
                )
            AsyncIOBuilder().load()
        except _HeldError as held:
            fault = f"{held}: another program builds DeepSpeed's ops there, or was killed while it did"
            problem = Problem("engine.offload", fault, "wait for it, or delete that file if there is none")
        except (RuntimeError, OSError, ImportError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            fault = f"DeepSpeed's op async_io cannot be built here: {reason}"
            remedy = "install libaio-dev (Debian) or libaio-devel, a C++ compiler and ninja, or use cpu"
            problem = Problem("engine.offload", fault, remedy)
    problems = list(dict.fromkeys(one for one in distributed.gather_objects(problem) if one is not None))
    if problems:
        raise ConfigError(problems)


class _HeldError(Exception):
    """A lock file that torch would wait for, for ever if its owner is gone."""


def _misfit(folder: Path, needed: int) -> Problem | None:
    if not folder.exists():
        return Problem(KEY, f"{folder}: there is no such folder", "make it, or name another")
    if not folder.is_dir():
        return Problem(KEY, f"{folder}: is not a folder", "name a folder on the node's own disk")
    _sweep(folder)
    ranks = distributed.world().local_size
    free = shutil.disk_usage(folder).free
    if free < needed * ranks:
        fault = f"{folder}: {_size(needed * ranks)} are needed for {ranks} processes, {_size(free)} are free"
        return Problem(KEY, fault, "free some space, or name a folder on a larger disk")
    return None


def _indirect(folder: Path) -> Problem | None:
    """Return the problem of a file system that takes no direct reads and writes, as the op's are."""
    probe = folder / "probe"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
        probe.unlink()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fault = f"{folder.parent}: its file system takes no direct reads and writes, as in memory"
        return Problem(KEY, fault, "name a folder on the node's own disk")
    return None


def _sweep(parent: Path) -> None:
    """Remove the folders in `parent` of processes that are gone: their locks are free."""
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = _locked(left / LOCK)
            if lock is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)


def _locked(file: Path) -> int | None:
    """Return a descriptor that holds the lock of `file`, None where another one holds it.

    flock, not lockf: a process that opens the file a second time must not lose its lock, nor get it twice.
    """
    handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _close(lock: int, remover: "subprocess.Popen[bytes]") -> None:
    if remover.stdin is not None:
        remover.stdin.close()
    remover.wait()
    os.close(lock)


def extensions() -> Path:
    """Return where this environment's ops are built: two that share a folder rebuild each other's."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    what = f"{sys.prefix} {sys.version} {version('torch')} {version('deepspeed')}"
    return cache / "lumbre" / "extensions" / hashlib.sha256(what.encode()).hexdigest()[:12]


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Wait until no other process of this program loads or builds ops in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lumbre.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield folder


def _unlock(folder: Path) -> None:
    """Remove what a killed build left; a folder that is not ours may have other builders, and is told of."""
    ours = folder == extensions()
    for left in folder.glob("*/lock"):
        if not ours:
            raise _HeldError(left)
        left.unlink(missing_ok=True)


def _size(number: int) -> str:
    """Return bytes as people write them."""
    value: Any = float(number)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
