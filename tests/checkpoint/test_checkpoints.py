"""Law 4: a checkpoint is whole or absent."""

import json
import random
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.checkpoint import CheckpointConfig, Checkpoints, Reader, verify
from lumbre.engine import AccelerateConfig, Engine, Fragment
from lumbre.engine.base import read_share
from lumbre.errors import CheckpointError, RunFolderError
from lumbre.models.share import Share
from lumbre.optim import AdamWConfig

from .written import write


@pytest.fixture
def engine() -> Engine:
    """Return an engine that has done one step."""
    torch.manual_seed(0)
    engine = AccelerateConfig().build(torch.nn.Linear(5, 3), AdamWConfig(learning_rate=0.1), 1)
    engine.backward(engine.forward()(torch.ones(2, 5)).sum())
    engine.step(0.1)
    return engine


@pytest.fixture
def checkpoints(tmp_path: Path, engine: Engine) -> Checkpoints:
    """Return a folder with checkpoints 1 and 2."""
    store = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep=3))
    for step in (1, 2):
        store.save(engine, step, {"identity": {}})
    return store


def test_what_is_restored_is_what_was_saved(checkpoints: Checkpoints, engine: Engine) -> None:
    folder = checkpoints.latest()
    assert folder is not None
    torch.manual_seed(1)
    other = AccelerateConfig().build(torch.nn.Linear(5, 3), AdamWConfig(learning_rate=0.1), 1)
    state = checkpoints.restore(other, folder)
    assert state["step"] == 2
    for one, two in zip(engine.fragments(), other.fragments(), strict=True):
        assert one.name == two.name
        for kind in ("param", "exp_avg", "exp_avg_sq"):
            assert torch.equal(one.tensors[kind], two.tensors[kind])


def whole(checkpoints: Checkpoints, engine: Engine, step: int, *, background: bool) -> None:
    """Save and wait until the checkpoint is whole."""
    checkpoints.save(engine, step, {"identity": {}}, background=background)
    checkpoints.wait()


def test_any_range_is_read_from_any_fragments(tmp_path: Path) -> None:
    """Pieces written by several ranks, of uneven sizes, read back as one flat tensor."""
    whole = torch.arange(10.0)
    bounds = [(0, 3), (3, 4), (4, 10)]
    pieces = [[Fragment("w", (2, 5), start, {"param": whole[start:stop]})] for start, stop in bounds]
    reader = Reader(write(tmp_path / "step-00000001", pieces))
    for start in range(10):
        for stop in range(start + 1, 11):
            assert torch.equal(reader.read("param", "w", start, stop), whole[start:stop])
    with pytest.raises(CheckpointError, match="exp_avg of w lacks 10 of the elements from 0 to 10"):
        reader.read("exp_avg", "w", 0, 10)


@settings(deadline=None)
@given(data=st.data())
def test_any_range_is_read_from_rows_and_columns_that_ranks_share(data: st.DataObject) -> None:
    """Shares of rows or columns, one of them cut again into even or uneven fragments, read back as one."""
    size, dim = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 1))
    parts = [size * part for part in data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))]
    other = data.draw(st.integers(1, 4))
    shape = (sum(parts), other) if dim == 0 else (other, sum(parts))
    whole = torch.rand(shape)
    pieces = []
    for rank in range(size):
        share = Share.of(shape, dim, parts, rank, size)
        own = share.cut(whole).flatten()
        at = data.draw(st.integers(0, own.numel()))
        pieces += [
            [Fragment("w", shape, start, {"param": own[start:stop]}, share)]
            for start, stop in ((0, at), (at, own.numel()))
        ]
    start = data.draw(st.integers(0, whole.numel() - 1))
    stop = data.draw(st.integers(start + 1, whole.numel()))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("lumbre.checkpoint.reader.CHUNK", 3)
        reader = Reader(write(Path(folder) / "step-00000001", pieces))
        assert torch.equal(reader.read("param", "w", start, stop), whole.flatten()[start:stop])
        asked = Share.of(shape, dim, parts, size - 1, size)
        n = asked.cut(whole).numel()
        at = data.draw(st.integers(0, n))
        found = read_share(reader.read, "param", "w", asked, at, n)
        assert torch.equal(found, asked.cut(whole).flatten()[at:])


def test_rows_that_a_rank_has_not_written_are_missed(tmp_path: Path) -> None:
    share = Share.of((4, 2), 1, [2], 0, 2)
    pieces = [[Fragment("w", (4, 2), 0, {"param": torch.ones(4)}, share)]]
    reader = Reader(write(tmp_path / "step-00000001", pieces))
    assert torch.equal(reader.read("param", "w", 2, 3), torch.ones(1))
    with pytest.raises(CheckpointError, match="param of w lacks 2 of the elements from 2 to 6"):
        reader.read("param", "w", 2, 6)


def test_every_damage_is_found_and_skipped_back_from(checkpoints: Checkpoints) -> None:
    """A flipped bit, a cut or a missing file, anywhere: found, named, and the one before is taken."""
    newest = checkpoints.folder / "step-00000002"
    backup = checkpoints.folder.parent / "backup"
    shutil.copytree(newest, backup)
    chance = random.Random(7)
    for trial in range(60):
        file = chance.choice(sorted(newest.iterdir()))
        content = bytearray(file.read_bytes())
        if trial % 3 == 0:
            file.unlink()
        elif trial % 3 == 1:
            file.write_bytes(content[: chance.randrange(len(content))])
        else:
            at = chance.randrange(len(content))
            content[at] ^= 1 << chance.randrange(8)
            file.write_bytes(content)
        assert verify(newest), f"trial {trial}: {file.name}"
        latest = checkpoints.latest()
        assert latest is not None
        assert latest.name == "step-00000001"
        assert "step-00000002 is damaged and was skipped" in checkpoints.damaged[0]
        shutil.rmtree(newest)
        shutil.copytree(backup, newest)
    assert verify(newest) == []


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(checkpoints: Checkpoints) -> None:
    """Starting over without a word would lose the run."""
    for folder in checkpoints.folder.iterdir():
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole; move the folder away to start over"):
        checkpoints.latest()


def test_a_save_that_was_killed_leaves_nothing_behind(checkpoints: Checkpoints, engine: Engine) -> None:
    """Half a save has no name that `latest` reads, and the next save of the step takes its place."""
    half = checkpoints.folder / ".step-00000003.tmp"
    half.mkdir()
    (half / "rank-00000.safetensors").write_bytes(b"half")
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000002"
    saved = checkpoints.save(engine, 3, {"identity": {}})
    assert verify(saved) == []
    assert not half.exists()


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_keeps_what_was_there(
    checkpoints: Checkpoints, engine: Engine, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    """The disk is stood in for by a write that fails as a full one does; a real one is in the slow tier."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumbre.checkpoint.save.write_shard", full)
    with pytest.raises(RunFolderError, match="the disk is full; free some space"):
        whole(checkpoints, engine, 3, background=background)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000002"
    assert [folder.name for folder in sorted(checkpoints.folder.iterdir())] == [
        "step-00000001",
        "step-00000002",
    ]


def test_old_checkpoints_go_only_after_the_new_one_is_there(checkpoints: Checkpoints, engine: Engine) -> None:
    for step in (3, 4, 5):
        checkpoints.save(engine, step, {"identity": {}})
    names = sorted(folder.name for folder in checkpoints.folder.iterdir())
    assert names == ["step-00000003", "step-00000004", "step-00000005"]


def test_nothing_in_a_checkpoint_is_ever_unpickled(checkpoints: Checkpoints) -> None:
    """Tensors are safetensors, the rest is JSON (law 10)."""
    for file in (checkpoints.folder / "step-00000002").iterdir():
        assert file.suffix in (".safetensors", ".json")
        if file.suffix == ".json":
            json.loads(file.read_bytes())
