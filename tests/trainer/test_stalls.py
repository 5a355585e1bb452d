"""A run that stands still is told once, and what takes its own time is no stall."""

import time

from lumbre.trainer.stalls import StallWatch


def test_a_stall_is_told_once_and_its_end_too():
    told = []
    with StallWatch(lambda name, message: told.append((name, message)), least_seconds=0.05) as watch:
        for seconds in (0.0, 0.0, 0.4, 0.0):
            with watch.step():
                time.sleep(seconds)
                watch.has_data()
        time.sleep(0.3)
    assert [name for name, _ in told] == ["stalled", "resumed_pace"]
    assert told[0][1].endswith("waiting for data")


def test_slow_steps_are_no_stall_once_they_are_usual():
    told = []
    with StallWatch(lambda name, message: told.append(name), least_seconds=0.02) as watch:
        for _ in range(5):
            with watch.step():
                time.sleep(0.05)
    assert told == []
