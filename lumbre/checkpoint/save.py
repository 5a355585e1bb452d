"""One checkpoint on its way to the disk: each rank writes its part, the main one gives it its name.

Ranks agree by what is in the shared folder alone, so that a thread can do it while training goes on.
"""

import hashlib
import json
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumbre.checkpoint.manifest import MANIFEST, STATE, sealed
from lumbre.checkpoint.shard import Layout, write_shard
from lumbre.distributed import World
from lumbre.errors import RunFolderError
from lumbre.files import explained, sync, write_json, write_text

PATIENCE_SECONDS = 1800.0
"""How long the main rank waits for the others' parts while none of them grows."""
LOOK_SECONDS = 0.02
REPLACED = ".replaced"
"""Ends the name that a checkpoint has for the moment in which another takes its place."""


class Save:
    """A save in flight; the data that it is given must stay as it is until `written`."""

    def __init__(
        self, working: Path, final: Path, state: str, world: World, then: Callable[[Path], None]
    ) -> None:
        """`state` goes beside the tensors; the main rank calls `then` once the checkpoint is whole."""
        self.working, self.final = working, final
        self.fault = ""
        """What went wrong on this rank, for the user."""
        self.bug = ""
        """The traceback of what is no user's error."""
        self.nbytes = 0
        """Size of the checkpoint; on the main rank, once it is whole."""
        self.seconds = 0.0
        """How long it took to become whole; on the main rank."""
        self.pause = 0.0
        """How long training stood still for it."""
        self.settled = False
        """Whether the ranks have agreed on how it went."""
        self.written = threading.Event()
        """This rank's part is on the disk, or has failed."""
        self._began = time.monotonic()
        self._state, self._world, self._then = state, world, then
        self._thread: threading.Thread | None = None
        self._abandoned = threading.Event()
        self._patience = PATIENCE_SECONDS

    @property
    def in_background(self) -> bool:
        """Whether a thread does it."""
        return self._thread is not None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do for this rank's thread."""
        return self._thread is None or not self._thread.is_alive()

    def start(self, layout: Layout, data: Iterable[memoryview]) -> None:
        """Do it all in a thread; faults are noted there, not raised."""

        def work() -> None:
            self.write(layout, data)
            if self._world.is_main and not self.fault:
                self.publish()

        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, where there is one."""
        if self._thread is not None:
            self._thread.join()

    def write(self, layout: Layout, data: Iterable[memoryview]) -> None:
        """Write this rank's tensors, and then the index that says how large they are and their hash."""
        stem = self.working / f"rank-{self._world.rank:05d}"
        try:
            with self._noting():
                self.working.mkdir(parents=True, exist_ok=True)
                file = write_shard(stem.with_suffix(".safetensors"), layout, data)
                write_json(stem.with_suffix(".json"), {"file": file, "fragments": layout.fragments})
        finally:
            self.written.set()

    def publish(self) -> None:
        """Wait for every rank's index, write the manifest and give the folder its name."""
        with self._noting():
            files: dict[str, dict[str, Any]] = {}
            for rank in range(self._world.size):
                index = self.working / f"rank-{rank:05d}.json"
                self._wait_for(index, rank)
                content = index.read_bytes()
                files[index.with_suffix(".safetensors").name] = json.loads(content)["file"]
                files[index.name] = _entry(content)
            write_text(self.working / STATE, self._state)
            files[STATE] = _entry(self._state.encode())
            write_text(self.working / MANIFEST, sealed(files))
            sync(self.working)
            _put(self.working, self.final)
            self.seconds = time.monotonic() - self._began
            self.nbytes = sum(file["bytes"] for file in files.values())
            self._then(self.final)

    def abandon(self) -> None:
        """Wait for no other rank any more: one of them has failed."""
        self._abandoned.set()

    def hurry(self, seconds: float) -> None:
        """Wait no longer than this for a part that does not grow."""
        self._patience = seconds

    def remove(self) -> None:
        """Take away what a save that failed has left."""
        shutil.rmtree(self.working, ignore_errors=True)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            with explained(self.working):
                yield
        except RunFolderError as error:
            self.fault = str(error)
        except OSError as error:
            remedy = "look at the disk, then run the same command again"
            self.fault = f"{self.working}: {error.strerror or error}; {remedy}"
        except Exception as error:
            self.fault = f"{self.working}: {type(error).__name__}: {error}"
            self.bug = traceback.format_exc()

    def _wait_for(self, index: Path, rank: int) -> None:
        grown, size = time.monotonic(), -1
        while not index.exists():
            if self._abandoned.wait(LOOK_SECONDS):
                raise RunFolderError(f"{self.working}: rank {rank} has not written its part")
            now = sum(file.stat().st_size for file in self.working.glob("rank-*.safetensors"))
            if now != size:
                grown, size = time.monotonic(), now
            if time.monotonic() - grown > self._patience:
                raise RunFolderError(
                    f"{self.working}: rank {rank} has not written its part within {self._patience:.0f} s; "
                    "runs_folder must be one folder that every node sees"
                )


def discard(folder: Path) -> None:
    """Remove a checkpoint; one that is half gone has no name any more."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _put(working: Path, final: Path) -> None:
    stale = final.with_name(f".{final.name}{REPLACED}")
    if final.exists():
        shutil.rmtree(stale, ignore_errors=True)
        final.rename(stale)
    working.rename(final)
    sync(final.parent)
    shutil.rmtree(stale, ignore_errors=True)


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
