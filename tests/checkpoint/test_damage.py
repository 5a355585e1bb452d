"""Law 4 under damage: no flipped bit and no cut, in any file of a checkpoint, goes unseen."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lumbre.checkpoint import Checkpoints, Reader, verify
from lumbre.checkpoint.manifest import FORMAT, MANIFEST, listed
from lumbre.engine import Engine, Fragment
from lumbre.errors import CheckpointError

from .written import write

FLIPS = int(os.environ.get("LUMBRE_FLIPS", "40"))
"""Damages that are tried; `LUMBRE_FLIPS=200` is the full count."""


def by_rank(value: float) -> list[list[Fragment]]:
    """Return what two ranks hold of two parameters and their state."""
    return [
        [
            Fragment(name, (20, 10), 100 * rank, {kind: torch.full((100,), value) for kind in ("param", "m")})
            for name in ("body.weight", "head.weight")
        ]
        for rank in (0, 1)
    ]


class Untouched:
    """An engine that no damaged checkpoint may reach."""

    def restore(self, read: object, step: int) -> None:
        raise AssertionError("it was loaded")


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    """Return checkpoints 1 and 2, each of two ranks."""
    state = {"step": 0, "identity": {"seed": 1}, "losses": [0.5, 0.25]}
    for step in (1, 2):
        text = json.dumps({**state, "step": step}, indent=1) + "\n"
        write(tmp_path / f"step-{step:08d}", by_rank(float(step)), text)
    return Checkpoints(tmp_path)


def damages(folder: Path, count: int) -> Iterator[str]:
    """Damage the folder in `count` ways, each on its own; every file has its turn, the manifest too."""
    chance = random.Random(FLIPS)
    files = sorted(folder.iterdir())
    for number in range(count):
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        whole = bytes(content)
        if chance.random() < 0.3:
            del content[chance.randrange(len(content)) :]
            what = f"{file.name} cut to {len(content)} bytes"
        else:
            at, bit = chance.randrange(len(content)), chance.randrange(8)
            content[at] ^= 1 << bit
            what = f"{file.name} byte {at} bit {bit}"
        file.write_bytes(content)
        yield what
        file.write_bytes(whole)


def test_every_flipped_bit_and_every_cut_is_found_and_none_is_loaded(store: Checkpoints) -> None:
    """In tensors, indexes, state and manifest alike; the run goes on from the checkpoint before."""
    newest = store.folder / "step-00000002"
    found = 0
    for what in damages(newest, FLIPS):
        assert verify(newest), what
        latest = store.latest()
        assert latest is not None
        assert latest.name == "step-00000001", what
        found += 1
    assert found == FLIPS
    assert verify(newest) == []


def test_no_part_of_a_manifest_can_change(store: Checkpoints) -> None:
    """Not its hashes alone: spaces, letters of names and its own hash; every eleventh bit is tried."""
    newest = store.folder / "step-00000002"
    manifest = newest / MANIFEST
    whole = manifest.read_bytes()
    for bit in range(0, 8 * len(whole), 11):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(content)
        assert listed(newest)[1], f"byte {bit // 8} bit {bit % 8}"


def test_a_checkpoint_that_is_damaged_is_loaded_by_nobody(store: Checkpoints) -> None:
    """Where none is left that is whole, nothing of any reaches an engine."""
    for folder in store.folder.iterdir():
        file = folder / MANIFEST
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match=r"manifest\.json: is damaged"):
            Reader(folder)
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        store.latest()


def test_a_checkpoint_of_the_first_format_is_read(store: Checkpoints, engine_like: Engine) -> None:
    """Its manifest has no hash of its own; all else is the same."""
    newest = store.folder / "step-00000002"
    content = json.loads((newest / MANIFEST).read_bytes())
    del content["sha256"]
    (newest / MANIFEST).write_text(json.dumps({**content, "format": 1}, indent=1) + "\n")
    assert verify(newest) == []
    assert store.latest() == newest
    assert torch.equal(Reader(newest).read("param", "head.weight", 90, 110), torch.full((20,), 2.0))
    with pytest.raises(AssertionError, match="it was loaded"):
        store.restore(engine_like, newest)


@pytest.fixture
def engine_like() -> Engine:
    """Return what tells that something was loaded into it."""
    return Untouched()  # type: ignore[return-value]


def test_a_checkpoint_of_a_later_format_is_told_as_such(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = store.folder / "step-00000002"
    shutil.rmtree(newest)
    with monkeypatch.context() as patch:
        patch.setattr("lumbre.checkpoint.manifest.FORMAT", FORMAT + 1)
        write(newest, by_rank(2.0))
    assert verify(newest) == [
        f"manifest.json: format {FORMAT + 1} is not one that this version reads (1 to {FORMAT})"
    ]


def test_a_checkpoint_of_the_format_before_is_read(
    store: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no shares in its indexes, and is otherwise the same."""
    newest = store.folder / "step-00000002"
    shutil.rmtree(newest)
    with monkeypatch.context() as patch:
        patch.setattr("lumbre.checkpoint.manifest.FORMAT", 2)
        write(newest, by_rank(2.0))
    assert verify(newest) == []
    assert torch.equal(Reader(newest).read("param", "head.weight", 90, 110), torch.full((20,), 2.0))
