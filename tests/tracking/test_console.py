"""The run on the screen: lines without a terminal, a live bar on one."""

import io
import math
import re

import pytest
from rich.console import Console

from lumbre.tracking import console as screen
from lumbre.tracking.console import LineTracker, LiveTracker, duration

ROW = {
    "loss": 4.25,
    "learning_rate": 3e-4,
    "grad_norm": 1.5,
    "tokens_per_second": 3215.4,
    "mfu": 0.31,
    "step_seconds": 0.5,
    "peak_memory_bytes": 3 * 2**30,
}


def lines(total, rows):
    out = io.StringIO()
    tracker = LineTracker("quick", total, 0, Console(file=out))
    for row in rows:
        tracker.log(row)
    tracker.finish(0)
    return out.getvalue().splitlines()


def test_lines_say_the_numbers_and_the_time_left():
    (line,) = lines(1000, [{"step": 10, **ROW}])
    numbers = "loss  4.2500  lr 3.00e-04    3,215 tok/s  MFU  31.0%   3.0 GiB  grad    1.5"
    assert line == f"step    10/1,000  {numbers}  8:15 left"


def test_lines_are_held_back_but_never_the_first_and_the_last(monkeypatch):
    monkeypatch.setattr(screen, "SECONDS_BETWEEN_LINES", math.inf)
    shown = lines(50, [{"step": step, **ROW} for step in (10, 20, 30, 40, 50)])
    assert [line.split()[1] for line in shown] == ["10/50", "50/50"]


def test_the_last_row_of_a_stopped_run_is_shown(monkeypatch):
    monkeypatch.setattr(screen, "SECONDS_BETWEEN_LINES", math.inf)
    shown = lines(50, [{"step": step, **ROW} for step in (10, 20, 30)])
    assert [line.split()[1] for line in shown] == ["10/50", "30/50"]


def test_columns_are_aligned_from_the_first_step_to_the_last(monkeypatch):
    monkeypatch.setattr(screen, "SECONDS_BETWEEN_LINES", -math.inf)
    shown = lines(10_000, [{"step": step, **ROW} for step in (1, 100, 10_000)])
    assert len({line.index("loss") for line in shown}) == len({line.index("tok/s") for line in shown}) == 1


def test_events_and_evaluations_are_always_shown_in_order():
    rows = [
        {"step": 10, **ROW},
        {"step": 20, **ROW},
        {"step": 20, "eval/loss": 4.5, "eval/perplexity": 90.017},
        {"step": 20, "event": "checkpoint", "message": "[bold]checkpoints/step-00000020[/]"},
    ]
    shown = lines(50, rows)
    assert [line.split()[1] for line in shown] == ["10/50", "20/50", "20/50", "20/50"]
    assert shown[2].endswith("eval/loss 4.5000  eval/perplexity 90.0170")
    assert shown[3].endswith("checkpoint  [bold]checkpoints/step-00000020[/]")


@pytest.mark.parametrize("loss", [math.nan, None])
def test_a_loss_that_is_no_number_is_shown_as_nan(loss):
    assert "loss     nan" in lines(50, [{"step": 50, **ROW, "loss": loss}])[0]


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_the_live_display_never_wraps(width):
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=width, height=20, color_system=None, highlight=False
    )
    tracker = LiveTracker("quickstart-bert", 100, 0, console)
    tracker.log({"step": 10, **ROW})
    tracker.log({"step": 10, "event": "checkpoint", "message": "[/] saved"})
    beside = Console(file=io.StringIO(), width=width)
    beside.print(tracker._live.get_renderable())
    tracker.finish(0)
    bar, numbers = beside.file.getvalue().splitlines()
    assert max(len(bar), len(numbers)) <= width
    assert "10/100" in bar
    assert numbers.startswith("loss 4.2500")
    assert "…" not in numbers
    assert "step  10/100  checkpoint  [/] saved" in out.getvalue()
    if width >= 60:
        assert all(one in numbers for one in ("4.2500", "lr 3.00e-04", "3,215 tok/s", "MFU 31.0%", "3.0 GiB"))
        assert "left" in bar
    if width >= 80:
        assert "grad 1.5" in numbers


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (134.4, "2:14"), (3734, "1:02:14"), (3 * 86400 + 3720, "3d 01:02")]
)
def test_durations_read_as_people_write_them(seconds, text):
    assert duration(seconds) == text


def test_a_probe_is_shown_as_an_evaluation_is():
    shown = lines(50, [{"step": 20, "downstream/sst2/accuracy": 0.8125, "downstream/sst2/f1": 0.5}])
    assert shown == ["step 20/50  downstream/sst2/accuracy 0.8125  downstream/sst2/f1 0.5000"]


def test_a_long_name_leaves_room_for_the_steps_and_the_time_left():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=20, color_system=None)
    tracker = LiveTracker("a-name-that-is-as-long-as-names-of-sweeps-become", 1_000_000, 0, console)
    tracker.log({"step": 123_456, **ROW, "step_seconds": 3.0})
    beside = Console(file=io.StringIO(), width=60)
    beside.print(tracker._live.get_renderable())
    tracker.finish(0)
    bar, _ = beside.file.getvalue().splitlines()
    assert "123,456/1,000,000" in bar
    assert re.search(r"30d 10:2\d left$", bar)
