"""`lumbre verify RUN` looks at every checkpoint of a run and says what it found."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lumbre.checkpoint.inspection import inspect, report
from lumbre.engine import Fragment
from lumbre.errors import CheckpointError, ExitStatus

from .written import write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with checkpoints 1, 2 and 3, each of two ranks; the last was evaluated."""
    for step in (1, 2, 3):
        halves = [[Fragment("w", (4,), 2 * rank, {"param": torch.ones(2)})] for rank in (0, 1)]
        state = '{"step": 3, "metrics": {"loss": 2.5}}\n' if step == 3 else "{}"
        (tmp_path / "run/checkpoints").mkdir(parents=True, exist_ok=True)
        write(tmp_path / f"run/checkpoints/step-{step:08d}", halves, state)
    return tmp_path / "run"


def test_whole_checkpoints_are_listed_and_the_status_is_0(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(run) == ExitStatus.DONE
    said = capsys.readouterr().out
    assert said.count("whole") == 4
    assert "3 of 3 checkpoints whole" in said
    assert "2.5000" in said
    assert [found.ranks for found in inspect(run)] == [2, 2, 2]


def test_a_damaged_checkpoint_is_named_with_file_and_fault_and_the_status_is_2(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is wrong, not the first alone."""
    damaged = run / "checkpoints/step-00000002"
    (damaged / "rank-00000.safetensors").unlink()
    (damaged / "state.json").write_text("[]")
    assert report(run) == ExitStatus.USER_ERROR
    said = capsys.readouterr().out
    assert f"damaged: {damaged}/rank-00000.safetensors: is missing" in said
    assert f"damaged: {damaged}/state.json: its SHA-256 is not the manifest's" in said
    assert "2 of 3 checkpoints whole; a run goes on from the latest that is" in said


def test_a_save_in_flight_is_told_and_is_no_damage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And left as it is; one that nobody writes any more is told as what it is."""
    working = run / "checkpoints/.step-00000004.abc-1.tmp"
    working.mkdir()
    (working / "rank-00000.safetensors").write_bytes(b"half")
    before = sorted(run.rglob("*"))
    assert report(run) == ExitStatus.DONE
    assert f"being written: {working} (4 B)" in capsys.readouterr().out
    hour_ago = time.time() - 3600
    os.utime(working / "rank-00000.safetensors", (hour_ago, hour_ago))
    assert report(run) == ExitStatus.DONE
    assert f"left by a save that was cut off, the next one removes it: {working}" in capsys.readouterr().out
    assert sorted(run.rglob("*")) == before


def test_a_checkpoint_that_a_live_run_removes_meanwhile_is_no_damage(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rotates while its files are being read."""
    oldest = run / "checkpoints/step-00000001"

    def rotated(*_: object) -> None:
        with suppress(OSError):
            oldest.rename(oldest.with_name(".step-00000001.old"))
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("hashlib.file_digest", rotated)
    assert oldest not in [found.folder for found in inspect(run)]


def test_a_run_of_several_shows_the_checkpoints_of_all(run: Path) -> None:
    """As fine-tuning with several seeds leaves them."""
    whole = run.parent / "seeds"
    whole.mkdir()
    for seed in (1, 2):
        (whole / f"seed-{seed}").mkdir()
        (run / "checkpoints/step-00000001").parent.rename(whole / f"seed-{seed}/checkpoints")
        (run / "checkpoints").mkdir()
    assert len(inspect(whole)) == 3


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        ("", "nothing", "there is no such folder; name a run's"),
        ("folder/inner", "folder", "is no run folder: it has neither checkpoints nor config.yaml"),
        ("one/checkpoints", "one/checkpoints", "name the run's own folder"),
    ],
)
def test_what_is_no_run_is_told_with_what_to_name(tmp_path: Path, make: str, name: str, message: str) -> None:
    (tmp_path / make).mkdir(parents=True, exist_ok=True)
    with pytest.raises(CheckpointError, match=message):
        inspect(tmp_path / name)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").touch()
    assert report(tmp_path) == ExitStatus.DONE
    assert "has no checkpoint yet" in capsys.readouterr().out
