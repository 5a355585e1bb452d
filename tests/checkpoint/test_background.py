"""A save in the background: training goes on, and what becomes whole is what the engine was when it began."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from lumbre.checkpoint import CheckpointConfig, Checkpoints, Reader, verify
from lumbre.checkpoint import save as saves
from lumbre.checkpoint.save import Save
from lumbre.checkpoint.shard import Layout, stream, write_shard
from lumbre.distributed import World
from lumbre.engine import AccelerateConfig, Engine, Fragment
from lumbre.errors import RunFolderError
from lumbre.optim import AdamWConfig

from .written import Owner


@pytest.fixture
def engine() -> Engine:
    """Return an engine that has done one step."""
    torch.manual_seed(0)
    engine = AccelerateConfig().build(torch.nn.Linear(5, 3), AdamWConfig(learning_rate=0.1), 1)
    train(engine)
    return engine


def train(engine: Engine) -> None:
    """Do a step."""
    engine.backward(engine.forward()(torch.ones(2, 5)).sum())
    engine.step(0.1)


def values(engine: Engine) -> dict[str, torch.Tensor]:
    """Return a copy of everything that a checkpoint holds."""
    owned = engine.fragments()
    return {f"{kind}/{one.name}": value.clone() for one in owned for kind, value in one.tensors.items()}


def assert_holds(folder: Path, wanted: dict[str, torch.Tensor]) -> None:
    """Assert that a checkpoint is whole and has these values to the bit."""
    assert verify(folder) == []
    reader = Reader(folder)
    for key, value in wanted.items():
        kind, name = key.split("/")
        assert torch.equal(reader.read(kind, name, 0, value.numel()), value), key


class Gate:
    """A disk that takes nothing until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        monkeypatch.setattr(saves, "write_shard", self._write)

    def _write(self, file: Path, layout: Layout, data: Iterable[memoryview]) -> dict[str, Any]:
        assert self.open.wait(60)
        return write_shard(file, layout, data)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Return the gate before every disk."""
    return Gate(monkeypatch)


def test_what_becomes_whole_is_what_the_engine_was_when_the_save_began(
    tmp_path: Path, engine: Engine, gate: Gate
) -> None:
    """The engine trains on before a byte is written."""
    store = Checkpoints(tmp_path)
    before = values(engine)
    folder = store.save(engine, 1, {}, background=True)
    train(engine)
    assert store.in_flight
    assert not folder.exists()
    assert store.finished() is None
    gate.open.set()
    store.wait()
    assert_holds(folder, before)
    finished = store.finished()
    assert finished is not None
    assert finished.folder == folder
    assert finished.nbytes == sum(
        file.stat().st_size for file in folder.iterdir() if "manifest" not in file.name
    )
    assert store.finished() is None


def test_a_new_save_waits_for_the_one_in_flight_and_takes_no_more_memory(
    tmp_path: Path, engine: Engine, gate: Gate
) -> None:
    """The buffer of the first is the second's too."""
    store = Checkpoints(tmp_path)
    store.prepare(engine)
    buffer = store._buffer
    first, one = values(engine), store.save(engine, 1, {}, background=True)
    train(engine)
    second = values(engine)
    threading.Timer(0.2, gate.open.set).start()
    two = store.save(engine, 2, {}, background=True)
    assert one.is_dir()
    store.wait()
    assert_holds(one, first)
    assert_holds(two, second)
    assert store._buffer is buffer


def test_a_save_that_ends_the_run_takes_no_buffer(tmp_path: Path, engine: Engine) -> None:
    store = Checkpoints(tmp_path)
    assert_holds(store.save(engine, 1, {}), values(engine))
    assert store._buffer is None


def test_a_background_save_that_failed_is_told_by_the_next_one(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier checkpoints are untouched, nothing is left of it, and with space the save works again."""
    store = Checkpoints(tmp_path)
    store.save(engine, 1, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saves, "write_shard", full)
        store.save(engine, 2, {}, background=True)
        with pytest.raises(RunFolderError, match="the disk is full; free some space"):
            store.save(engine, 3, {}, background=True)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]
    assert not store.faulty
    assert_holds(store.save(engine, 3, {}), values(engine))


def test_a_bug_in_the_background_is_no_users_error(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the run with its traceback."""

    def broken(*_: object) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr(saves, "write_shard", broken)
    store = Checkpoints(tmp_path)
    store.save(engine, 1, {}, background=True)
    with pytest.raises(RuntimeError, match=r"Traceback[\s\S]*no such thing"):
        store.wait()


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path, engine: Engine) -> None:
    store = Checkpoints(tmp_path)
    store.save(engine, 1, {"at": "first"}, background=True)
    train(engine)
    folder = store.save(engine, 1, {"at": "second"}, background=True)
    store.wait()
    assert_holds(folder, values(engine))
    assert store.state(folder)["at"] == "second"
    assert [one.name for one in tmp_path.iterdir()] == ["step-00000001"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(
    tmp_path: Path, engine: Engine
) -> None:
    """What was to be replaced is found under its other name, and has its own again before the next save."""
    config = CheckpointConfig(keep=1)
    folder = Checkpoints(tmp_path, config).save(engine, 1, {})
    aside = folder.rename(folder.with_name(f".{folder.name}.replaced"))
    store = Checkpoints(tmp_path, config)
    assert store.latest() == aside
    assert store.restore(engine, aside)["step"] == 1
    store._clear(tmp_path / ".step-00000002.tmp")
    assert store.latest() == folder


Part = Callable[[int], Save]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Return a function from a rank of two to its side of one save."""
    return lambda rank: Save(tmp_path / ".step.tmp", tmp_path / "step", "{}", World(rank, 2, rank, 2), print)


def fragments(rank: int) -> list[Fragment]:
    """Return a half of a parameter."""
    return [Fragment("w", (4,), 2 * rank, {"param": torch.full((2,), float(rank))})]


def start(save: Save, rank: int) -> None:
    """Begin in the background."""
    layout = Layout.of(fragments(rank))
    save.start(layout, stream(Owner(fragments(rank)), layout))  # type: ignore[arg-type]


def test_the_main_rank_waits_for_the_parts_of_the_others(tmp_path: Path, part: Part) -> None:
    """By what is in the folder alone; the checkpoint has its name when all of it is there."""
    main, other = part(0), part(1)
    start(main, 0)
    main.written.wait()
    assert not (tmp_path / "step").exists()
    start(other, 1)
    main.join()
    other.join()
    assert main.fault == ""
    assert_holds(tmp_path / "step", {"param/w": torch.tensor([0.0, 0.0, 1.0, 1.0])})


def test_a_part_that_never_comes_is_named(tmp_path: Path, part: Part) -> None:
    """A rank that is gone, or a folder that its node does not see."""
    main = part(0)
    main.hurry(0.0)
    start(main, 0)
    main.join()
    assert "rank 1 has not written its part" in main.fault
    assert "one folder that every node sees" in main.fault
    assert not (tmp_path / "step").exists()


def test_a_save_that_another_rank_has_failed_in_is_given_up(tmp_path: Path, part: Part) -> None:
    main = part(0)
    start(main, 0)
    main.abandon()
    main.join()
    assert "rank 1 has not written its part" in main.fault
    assert not (tmp_path / "step").exists()
