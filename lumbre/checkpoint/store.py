"""The checkpoints of one run: save, find the latest whole one, restore, rotate."""

import json
import math
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbre import distributed
from lumbre.checkpoint.config import CheckpointConfig
from lumbre.checkpoint.manifest import STATE
from lumbre.checkpoint.reader import Reader
from lumbre.checkpoint.retention import doomed
from lumbre.checkpoint.save import REPLACED, Save, discard
from lumbre.checkpoint.shard import HostBuffer, Layout, stream
from lumbre.checkpoint.verify import verify
from lumbre.engine import Engine
from lumbre.errors import CheckpointError, RunFolderError

GRACE_SECONDS = 20.0
"""How long a run that ends in an error waits for a part of its last save that does not grow."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    folder: Path
    pause: float
    """Seconds for which training stood still."""
    seconds: float
    """From the beginning of the save until it was whole."""
    nbytes: int


class Checkpoints:
    """The folder `checkpoints/` of a run. Every method but `finished` and `close` is called by every rank."""

    def __init__(self, folder: Path, config: CheckpointConfig | None = None) -> None:
        self.folder = folder
        self.config = config or CheckpointConfig()
        self.damaged: list[str] = []
        """What `latest` skipped, a line for each, for the run's events."""
        self._damaged: set[int] = set()
        self._token = ""
        self._count = 0
        self._layout: Layout | None = None
        self._buffer: HostBuffer | None = None
        self._save: Save | None = None
        self._reported: Save | None = None

    def prepare(self, engine: Engine) -> None:
        """Take the memory that saves in the background copy to, so that the first one need not."""
        if self._layout is None:
            self._layout = Layout.of(engine.fragments())
        if self._buffer is None:
            self._buffer = HostBuffer(self._layout, engine.device)

    def save(self, engine: Engine, step: int, state: Mapping[str, Any], *, background: bool = False) -> Path:
        """Write checkpoint `step`; it appears under its name only when it is whole.

        A save that is in flight is waited for. In the background the engine may change as soon as this
        returns, and `wait` or the next save tells how it went. Raises RunFolderError on every rank when any
        could not write; earlier checkpoints are untouched.
        """
        self.wait()
        began = time.monotonic()
        save = self._save = self._begin(step, state)
        if background:
            self.prepare(engine)
            assert self._layout is not None
            assert self._buffer is not None
            save.start(self._layout, [self._buffer.copy(engine, self._layout)])
            save.pause = time.monotonic() - began
        else:
            self._layout = self._layout or Layout.of(engine.fragments())
            save.write(self._layout, stream(engine, self._layout))
            self.wait()
            save.pause = time.monotonic() - began
        return save.final

    @property
    def in_flight(self) -> bool:
        """Whether this rank is still busy with a save."""
        return self._save is not None and not self._save.ended

    @property
    def faulty(self) -> bool:
        """Whether the save in flight has failed on this rank; `wait` raises what happened, on all of them."""
        return self._save is not None and bool(self._save.fault)

    def wait(self) -> None:
        """Wait until the save in flight is whole.

        Raises RunFolderError on every rank when any could not write; earlier checkpoints are untouched.
        """
        save, is_main = self._save, distributed.world().is_main
        if save is None or save.settled:
            return
        save.written.wait()
        faults = _told(distributed.gather_objects((save.fault, save.bug)))
        if faults:
            save.abandon()
        if is_main and not faults and not save.in_background:
            save.publish()
        save.join()
        faults = distributed.from_main(faults or _told([(save.fault, save.bug)]))
        save.settled = True
        if faults:
            self._save = None
            if is_main:
                save.remove()
            if any(bug for _, bug in faults):
                raise RuntimeError("\n".join(bug or fault for fault, bug in faults))
            raise RunFolderError("\n".join(fault for fault, _ in faults))

    def finished(self) -> Saved | None:
        """Return the last save, once, when it is whole; on the main rank, None on the others."""
        save = self._save
        if save is None or save is self._reported or not save.ended or not save.nbytes:
            return None
        self._reported = save
        return Saved(save.final, save.pause, save.seconds, save.nbytes)

    def close(self) -> None:
        """Let the save in flight become whole where other ranks can no longer be asked; it may not."""
        if self._save is not None:
            self._save.hurry(GRACE_SECONDS)
            self._save.join()

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint, None where there is none; damaged ones are noted and skipped.

        The ranks share the files out. Raises CheckpointError when there are checkpoints and none is whole.
        """
        self.wait()
        world = distributed.world()
        candidates: list[Path] = distributed.from_main(self._candidates() if world.is_main else [])
        self.damaged, self._damaged = [], set()
        for folder in candidates:
            by_rank = distributed.gather_objects(verify(folder, world.rank, world.size))
            faults = sorted({fault for found in by_rank for fault in found})
            if not faults:
                return folder
            self.damaged.append(f"{folder.name} is damaged and was skipped: {'; '.join(faults)}")
            self._damaged.add(_step(folder))
        if self.damaged:
            lines = "\n".join(self.damaged)
            raise CheckpointError(
                f"{self.folder}: no checkpoint is whole; move the folder away to start over\n{lines}"
            )
        return None

    def restore(self, engine: Engine, folder: Path) -> dict[str, Any]:
        """Set the engine to the checkpoint's weights and optimizer state; return its state.

        Raises CheckpointError when the checkpoint is of another model; the engine is untouched then.
        """
        state = self.state(folder)
        # Steps that were skipped or passed over are none of the optimizer's.
        engine.restore(Reader(folder).read, state.get("updates", state["step"]))
        return state

    def state(self, folder: Path) -> dict[str, Any]:
        """Return what was saved beside the tensors: step, counters and the run's identity."""
        state: dict[str, Any] = json.loads((folder / STATE).read_bytes())
        return state

    def _begin(self, step: int, state: Mapping[str, Any]) -> Save:
        world = distributed.world()
        if not self._token:
            self._token = distributed.from_main(uuid.uuid4().hex[:8])
        # Parts of two attempts at one step never meet.
        self._count += 1
        name = f"step-{step:08d}"
        working = self.folder / f".{name}.{self._token}-{self._count}.tmp"
        if world.is_main:
            self._clear(working)
        text = json.dumps({"step": step, **state}, indent=1) + "\n"
        return Save(working, self.folder / name, text, world, self._rotate)

    def _clear(self, working: Path) -> None:
        """Take away what a kill has left of a save or a rotation; it would stay for ever."""
        for left in self.folder.glob(".step-*"):
            place = self.folder / left.name.split(".")[1]
            if left.suffix == REPLACED and not place.exists():
                left.rename(place)
            elif left != working:
                shutil.rmtree(left, ignore_errors=True)

    def _rotate(self, newest: Path) -> None:
        folders = {_step(folder): folder for folder in self.folder.glob("step-*")}
        self._damaged.discard(_step(newest))
        for step in doomed(folders, self._metrics(folders), self._damaged, _step(newest), self.config):
            discard(folders[step])

    def _metrics(self, folders: Mapping[int, Path]) -> dict[int, float]:
        """Return what the checkpoints have of the metric that the best are told by."""
        out: dict[int, float] = {}
        if self.config.keep_best is not None:
            name = self.config.keep_best.metric
            for step, folder in folders.items():
                # What cannot be read is damaged, and goes in its turn.
                with suppress(OSError, ValueError, AttributeError):
                    value = self.state(folder).get("metrics", {}).get(name)
                    if isinstance(value, float) and math.isfinite(value):
                        out[step] = value
        return out

    def _candidates(self) -> list[Path]:
        """Return the folders that may be whole checkpoints, the newest first."""
        found = {folder.name: folder for folder in self.folder.glob("step-*")}
        # A kill between two renames leaves the one that was to be replaced.
        for folder in self.folder.glob(f".step-*{REPLACED}"):
            found.setdefault(folder.name.split(".")[1], folder)
        return [found[name] for name in sorted(found, reverse=True)]


def _step(folder: Path) -> int:
    return int(folder.name.strip(".").split(".")[0].removeprefix("step-"))


def _told(faults: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(fault, bug) for fault, bug in faults if fault]
