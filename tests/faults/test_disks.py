"""Disks that are full, that others fill, or that are read-only: a reason, exit 2, and nothing lost."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lumbre.checkpoint import verify
from lumbre.tracking import jsonl
from tests.end_to_end.conftest import Project
from tests.faults.disk import CannotMountError, fill, remount, small_disk

pytestmark = pytest.mark.slow

TWO_RANKS = ["launch", "local", "processes=2", "threads_per_process=1", "--"]


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run that may be writing one."""
    return jsonl.read(run / "metrics.jsonl")


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """Have a small disk; skip the test where it is not permitted."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, size))
        except CannotMountError as why:
            pytest.skip(str(why))
        yield


@pytest.mark.parametrize("layout", [[], [*TWO_RANKS]], ids=["alone", "launched"])
def test_a_full_disk_stops_with_a_reason_and_loses_nothing(project: Project, layout: list[str]) -> None:
    """Checkpoints fill the disk: exit 2, place and remedy, earlier ones whole; with space it goes on."""
    folder = project.folder / f"small-{len(layout)}"
    command = [*layout, "pretrain", "run.yaml", f"runs_folder={folder.name}"]
    command += ["checkpoint.every_steps=2", "checkpoint.keep=100"]
    run = folder / "run"
    with disk(folder, "1m"):
        stopped = project.lumbre(*command)
        assert stopped.returncode == 2, stopped.stderr
        assert f"{folder.name}/run/checkpoints/.step-" in stopped.stderr
        assert "free some space" in stopped.stderr
        whole = sorted((run / "checkpoints").iterdir())
        assert len(whole) >= 2
        assert all(path.name.startswith("step-") and verify(path) == [] for path in whole)
        remount(folder, "size=64m")
        done = project.lumbre(*command)
        assert done.returncode == 0, done.stderr
        assert f"from step {int(whole[-1].name.removeprefix('step-'))}" in str(rows(run))
        assert [row["step"] for row in rows(run) if "loss" in row] == list(range(1, 25))
        expected = project.losses("unbroken")
        for row in rows(run):
            if "loss" in row:
                assert row["loss"] == (pytest.approx(expected[row["step"]], rel=1e-6 if layout else 0, abs=0))


def test_a_disk_that_others_fill_stops_a_run_with_a_reason(project: Project) -> None:
    """Not a byte is free for a row, an exit record or a lock: exit 2 all the same, and nothing is lost."""
    folder = project.folder / "filled"
    command = ["pretrain", "run.yaml", "runs_folder=filled", "checkpoint.every_steps=4"]
    with disk(folder, "8m"):
        process = project.start(*command)
        project.wait_for(lambda: any(row["step"] >= 5 for row in rows(folder / "run")), process)
        process.send_signal(signal.SIGSTOP)
        fill(folder / "others")
        process.send_signal(signal.SIGCONT)
        status = process.wait()
        said = (project.folder / "out.txt").read_text()
        assert status == 2, said
        assert "Traceback" not in said
        assert "filled/run" in said
        again = project.lumbre(*command)
        assert again.returncode == 2, again.stderr
        assert "Traceback" not in again.stderr
        assert "the disk is full; free some space, then run the same command again" in again.stderr
        (folder / "others").unlink()
        done = project.lumbre(*command)
        assert done.returncode == 0, done.stderr
        assert {row["step"]: row["loss"] for row in rows(folder / "run") if "loss" in row} == project.losses(
            "unbroken"
        )


def test_a_read_only_run_folder_is_an_error(project: Project) -> None:
    """Exit 2 with place and remedy; once it can be written again, the run goes on from where it was."""
    folder = project.folder / "locked"
    command = ["pretrain", "run.yaml", "runs_folder=locked", "checkpoint.every_steps=1000"]
    with disk(folder, "8m"):
        process = project.start(*command)
        project.wait_for(lambda: any(row["step"] >= 3 for row in rows(folder / "run")), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75
        remount(folder, "ro")
        refused = project.lumbre(*command)
        assert refused.returncode == 2, refused.stderr
        assert "Traceback" not in refused.stderr
        assert "the disk is read-only; set runs_folder to a folder that can" in refused.stderr
        remount(folder, "rw")
        done = project.lumbre(*command)
        assert done.returncode == 0, done.stderr
        assert {row["step"]: row["loss"] for row in rows(folder / "run") if "loss" in row} == project.losses(
            "unbroken"
        )
