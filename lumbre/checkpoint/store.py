"""The checkpoints of one run: save, find the latest whole one, restore, rotate."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PositiveInt
from safetensors import SafetensorError
from safetensors.torch import save_file

from lumbre import distributed
from lumbre.checkpoint.reader import Reader
from lumbre.checkpoint.verify import MANIFEST, STATE, manifest, verify
from lumbre.config import Config
from lumbre.engine import Engine
from lumbre.errors import CheckpointError, RunFolderError
from lumbre.files import explained, sync, write_json


class CheckpointConfig(Config):
    """When checkpoints are written and how many are kept."""

    every_steps: PositiveInt | None = None
    """Steps between checkpoints; none: only at the end and when the run is stopped."""
    keep: PositiveInt = 2
    """How many of the latest checkpoints stay on disk."""


class Checkpoints:
    """The folder `checkpoints/` of a run. Every method is called by every rank."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep
        self.damaged: list[str] = []
        """What `latest` skipped, a line for each, for the run's events."""

    def save(self, engine: Engine, step: int, state: Mapping[str, Any]) -> Path:
        """Write checkpoint `step`; it appears under its name only when it is whole.

        Raises RunFolderError on every rank when any could not write; earlier checkpoints are untouched.
        """
        world = distributed.world()
        final = self.folder / f"step-{step:08d}"
        working = self.folder / f".step-{step:08d}.tmp"
        if world.is_main:
            with explained(self.folder):
                # What a kill left of this save, or of any other one or a rotation, would stay for ever.
                for left in self.folder.glob(".step-*"):
                    shutil.rmtree(left, ignore_errors=True)
                working.mkdir(parents=True)
        distributed.barrier()
        fault = ""
        try:
            with explained(working):
                _write_fragments(engine, working / f"rank-{world.rank:05d}")
        except (RunFolderError, SafetensorError) as error:
            fault = (
                str(error) if isinstance(error, RunFolderError) else f"{working}: {error}; free some space"
            )
        faults = [text for text in distributed.gather_objects(fault) if text]
        if world.is_main:
            if not faults:
                try:
                    _finish(working, final, {"step": step, **state})
                except RunFolderError as error:
                    faults = [str(error)]
            if faults:
                shutil.rmtree(working, ignore_errors=True)
            else:
                self._rotate(final)
        faults = distributed.from_main(faults)
        if faults:
            raise RunFolderError("\n".join(faults))
        return final

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint, None where there is none; damaged ones are noted and skipped.

        Raises CheckpointError when there are checkpoints and none is whole.
        """
        found: tuple[Path | None, list[str]] = (None, [])
        if distributed.world().is_main:
            found = self._find()
        found = distributed.from_main(found)
        latest, self.damaged = found
        if latest is None and self.damaged:
            faults = "\n".join(self.damaged)
            raise CheckpointError(
                f"{self.folder}: no checkpoint is whole; move the folder away to start over\n{faults}"
            )
        return latest

    def restore(self, engine: Engine, folder: Path) -> dict[str, Any]:
        """Set the engine to the checkpoint's weights and optimizer state; return its state.

        Raises CheckpointError when the checkpoint is of another model; the engine is untouched then.
        """
        state: dict[str, Any] = json.loads((folder / STATE).read_bytes())
        # Steps that were skipped or passed over are none of the optimizer's.
        engine.restore(Reader(folder).read, state.get("updates", state["step"]))
        return state

    def state(self, folder: Path) -> dict[str, Any]:
        """Return what was saved beside the tensors: step, counters and the run's identity."""
        state: dict[str, Any] = json.loads((folder / STATE).read_bytes())
        return state

    def _find(self) -> tuple[Path | None, list[str]]:
        damaged: list[str] = []
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            faults = verify(folder)
            if not faults:
                return folder, damaged
            damaged.append(f"{folder.name} is damaged and was skipped: {'; '.join(faults)}")
        return None, damaged

    def _rotate(self, newest: Path) -> None:
        older = [folder for folder in sorted(self.folder.glob("step-*")) if folder.name < newest.name]
        for folder in older[: max(0, len(older) - (self._keep - 1))]:
            doomed = folder.with_name(f".{folder.name}.old")
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _write_fragments(engine: Engine, stem: Path) -> None:
    tensors = {}
    entries = []
    for fragment in engine.fragments():
        for kind, tensor in fragment.tensors.items():
            tensors[f"{kind}/{fragment.name}"] = tensor.detach().cpu().clone()
        entries.append(
            {
                "name": fragment.name,
                "shape": list(fragment.shape),
                "start": fragment.start,
                "numel": fragment.numel,
                "kinds": list(fragment.tensors),
            }
        )
    save_file(tensors, stem.with_suffix(".safetensors"))
    sync(stem.with_suffix(".safetensors"))
    write_json(stem.with_suffix(".json"), {"fragments": entries})


def _finish(working: Path, final: Path, state: Mapping[str, Any]) -> None:
    with explained(working):
        write_json(working / STATE, state)
        write_json(working / MANIFEST, manifest(working))
        sync(working)
        if final.exists():
            stale = final.with_name(f".{final.name}.old")
            shutil.rmtree(stale, ignore_errors=True)
            final.rename(stale)
            shutil.rmtree(stale, ignore_errors=True)
        working.rename(final)
        sync(final.parent)
