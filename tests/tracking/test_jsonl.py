"""metrics.jsonl: whole lines, no NaN, cut back on resume without loss."""

import errno
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
def test_a_disk_that_is_full_to_the_end_is_explained_with_a_remedy():
    tracker = JsonlTracker(Path("/dev/full"))
    tracker.log({"step": 1})
    with pytest.raises(RunFolderError, match=r"/dev/full: .*No space left.*make room.*run the same command"):
        tracker.finish(0)


@given(rooms=st.lists(st.integers(0, 60), max_size=12))
def test_rows_wait_for_a_full_disk_in_order_and_no_line_is_torn(tmp_path_factory, rooms):
    """Whatever room there is at each write, the file has whole lines, and in the end all of them."""
    file = tmp_path_factory.mktemp("full") / "metrics.jsonl"
    told: list[str] = []
    tracker = JsonlTracker(file, lambda event: told.append(event["event"]))
    left, write = 0, os.write

    def with_room(descriptor: int, line: memoryview) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, line[:left])
        left -= written
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", with_room)
        for step, room in enumerate(rooms):
            left = room
            tracker.log({"step": step, "loss": 1.25})
            assert [row["step"] for row in read(file)] == list(range(len(read(file))))
            assert file.read_bytes()[-1:] in (b"", b"\n")
    tracker.log({"step": len(rooms)})
    tracker.finish(0)
    assert [row["step"] for row in read(file)] == list(range(len(rooms) + 1))
    assert told == ["metrics_disk_full", "metrics_resumed"] * (len(told) // 2)
    sizes = [len(f'{{"step": {step}, "loss": 1.25}}\n') for step in range(len(rooms))]
    assert bool(told) == any(room < size for room, size in zip(rooms, sizes, strict=True))


def test_rolling_back_drops_later_rows_and_those_that_wait_too(tmp_path, monkeypatch):
    file = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(file)
    for step in (1, 2, 3):
        tracker.log({"step": step})

    def full(descriptor: int, line: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        tracker.log({"step": 4})
    tracker.roll_back(2, {"step": 4, "event": "rolled_back"})
    tracker.log({"step": 5})
    tracker.finish(0)
    assert read(file) == [{"step": 1}, {"step": 2}, {"step": 4, "event": "rolled_back"}, {"step": 5}]


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
