"""metrics.jsonl: whole lines, no NaN, cut back on resume without loss."""

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbre.errors import RunFolderError
from lumbre.tracking.jsonl import JsonlTracker, cut_back, read


def test_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path):
    file = tmp_path / "run" / "metrics.jsonl"
    tracker = JsonlTracker(file)
    tracker.log({"step": 1, "loss": 2.5})
    assert file.read_text() == '{"step": 1, "loss": 2.5}\n'
    tracker.finish(0)


def test_what_is_not_a_number_is_null(tmp_path):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.log({"step": 1, "loss": math.nan, "grad_norm": math.inf, "parts": [-math.inf, {"a": math.nan}]})
    tracker.finish(0)
    strict = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert strict == {"step": 1, "loss": None, "grad_norm": None, "parts": [None, {"a": None}]}


def test_cut_back_drops_later_rows_of_every_kind_and_keeps_the_rest_byte_for_byte(tmp_path):
    file = tmp_path / "metrics.jsonl"
    kept = b'{"step": 9, "loss": 1.10}\n{"step": 10,"eval/loss": 2}\n{"step": 10, "event": "checkpoint"}\n'
    file.write_bytes(kept + b'{"step": 11, "loss": 1.0}\n{"step": 12, "event": "stopped"}\n{"step": 13, "lo')
    cut_back(file, 10)
    assert file.read_bytes() == kept
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cut_back_to_the_start_of_a_run_without_metrics_is_nothing(tmp_path):
    cut_back(tmp_path / "metrics.jsonl", 0)
    assert not list(tmp_path.iterdir())


@given(steps=st.lists(st.integers(1, 50), max_size=8), torn=st.integers(0, 40), start=st.integers(0, 50))
def test_a_file_cut_anywhere_is_read_up_to_its_last_whole_row(tmp_path_factory, steps, torn, start):
    file = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.5}) + "\n" for step in sorted(steps)]
    text = "".join(lines)
    file.write_text(text[: max(0, len(text) - torn)])
    whole = [json.loads(line) for line in file.read_text().split("\n") if line.endswith("}")]
    assert read(file) == whole
    cut_back(file, start)
    tracker = JsonlTracker(file)
    tracker.log({"step": 51})
    tracker.finish(0)
    assert read(file) == [*(row for row in whole if row["step"] <= start), {"step": 51}]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_explained_with_a_remedy():
    tracker = JsonlTracker(Path("/dev/full"))
    with pytest.raises(RunFolderError, match=r"/dev/full: .*No space left.*make room.*run the same command"):
        tracker.log({"step": 1})
    tracker.finish(2)


def test_a_folder_in_the_place_of_the_file_is_explained(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        JsonlTracker(tmp_path)


def test_a_crash_while_cutting_back_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n')

    def crash(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(RunFolderError, match="No space left"):
        cut_back(file, 1)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
