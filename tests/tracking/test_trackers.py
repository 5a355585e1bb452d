"""Each row reaches every tracker, and a tracker that fails does not stop the run."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from lumbre.errors import RunFolderError
from lumbre.tracking import RunInfo, TrackerConfig, Trackers
from lumbre.tracking.jsonl import read


class Kept:
    name = "kept"

    def __init__(self) -> None:
        self.rows: list = []
        self.status: int | None = None

    def log(self, row) -> None:
        self.rows.append(row)

    def finish(self, exit_status: int) -> None:
        self.status = exit_status


class Broken(Kept):
    name = "broken"

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def log(self, row) -> None:
        raise self._error


@pytest.fixture
def no_members(monkeypatch):
    monkeypatch.setattr(TrackerConfig, "members", dict(TrackerConfig.members))


def test_every_tracker_gets_every_row_and_the_exit_status():
    kept = [Kept(), Kept()]
    trackers = Trackers(kept)
    trackers.log({"step": 1, "loss": 2.0})
    trackers.finish(75)
    assert [(tracker.rows, tracker.status) for tracker in kept] == [([{"step": 1, "loss": 2.0}], 75)] * 2


def test_no_trackers_take_rows_in_silence(capsys):
    trackers = Trackers()
    trackers.log({"step": 1, "loss": 2.0})
    trackers.finish(0)
    assert capsys.readouterr() == ("", "")


def test_a_failing_tracker_is_switched_off_and_told_once():
    kept, broken = Kept(), Broken(ConnectionError("the server\nis gone"))
    trackers = Trackers([broken, kept])
    trackers.log({"step": 1, "loss": 2.0})
    trackers.log({"step": 2, "loss": 1.0})
    events = [row for row in kept.rows if "event" in row]
    assert [row["step"] for row in kept.rows if "loss" in row] == [1, 2]
    assert [(row["event"], row["step"], "loss" in row) for row in events] == [("tracker_off", 1, False)]
    assert events[0]["message"] == "broken failed and is switched off, the run goes on: the server"
    trackers.finish(0)
    assert broken.status is None


def test_a_user_error_of_a_tracker_ends_the_run():
    with pytest.raises(RunFolderError):
        Trackers([Broken(RunFolderError("the disk is full"))]).log({"step": 1, "loss": 2.0})


def test_a_tracker_that_cannot_start_leaves_an_event(tmp_path, capsys, no_members):
    class NoServerConfig(TrackerConfig):
        type: Literal["no_server"] = "no_server"

        def build(self, run: RunInfo):
            raise TimeoutError("no answer")

    trackers = Trackers.start(RunInfo("quick", tmp_path, {}, 10), [NoServerConfig()])
    trackers.log({"step": 1, "loss": 2.0})
    trackers.finish(0)
    rows = read(tmp_path / "metrics.jsonl")
    assert [row.get("event") for row in rows] == ["tracker_off", None]
    assert "no_server failed and is switched off, the run goes on: no answer" in capsys.readouterr().out


def test_start_cuts_the_metrics_back_to_the_step_that_the_run_resumes_from(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 100, "loss": 1.0}\n{"step": 110, "loss": 1.0}\n')
    trackers = Trackers.start(RunInfo("quick", tmp_path, {}, 200, start_step=100))
    trackers.log({"step": 110, "loss": 2.0})
    trackers.finish(0)
    assert [row["loss"] for row in read(tmp_path / "metrics.jsonl")] == [1.0, 2.0]


def test_tracking_does_without_torch_and_imports_its_clients_late():
    heavy = "{'torch', 'wandb', 'matplotlib', 'transformers'}"
    code = f"import sys, lumbre.tracking; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert told.stderr.strip() == ""
