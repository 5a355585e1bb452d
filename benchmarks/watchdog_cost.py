"""What the watchdog costs an ordinary step: its notes, and its helper, as shares of a step of 50 ms.

The notes of one step are written as the loop writes them, and the helper looks after this process meanwhile;
its CPU time is what the kernel counts. Both are CPU time, so that a busy machine shows little in them.

    .venv/bin/python -m benchmarks.watchdog_cost [MICRO BATCHES]
"""

import sys
import tempfile
import time
from pathlib import Path

import psutil

from lumbre import watchdog
from lumbre.watchdog.config import WatchdogConfig
from lumbre.watchdog.watch import watching

STEP_SECONDS = 0.05
STEPS = 20_000
LOOKED_AFTER_SECONDS = 20.0


def note_step(number: int, micro_batches: int) -> None:
    """Note what the loop notes in one step."""
    with watchdog.step(number):
        watchdog.enter("counting targets")
        with watchdog.collective("sum over ranks"):
            pass
        for _ in range(micro_batches):
            watchdog.enter("running forward")
            watchdog.enter("running backward")
        watchdog.enter("updating the weights")
        watchdog.enter("logging")
        with watchdog.collective("sum over ranks"):
            pass


def main(micro_batches: int) -> None:
    """Print both shares."""
    with tempfile.TemporaryDirectory() as folder, watching(WatchdogConfig(), Path(folder)):
        (helper,) = psutil.Process().children()
        time.sleep(1.0)
        before = sum(helper.cpu_times()[:2])
        began = time.monotonic()
        used = time.process_time()
        for number in range(STEPS):
            note_step(number, micro_batches)
        notes = (time.process_time() - used) / STEPS
        while time.monotonic() - began < LOOKED_AFTER_SECONDS:
            note_step(STEPS, micro_batches)
            time.sleep(STEP_SECONDS)
        looks = (sum(helper.cpu_times()[:2]) - before) / (time.monotonic() - began)
        memory = helper.memory_info().rss
    print(
        f"notes {1e6 * notes:.1f} us a step of {micro_batches} micro batches: {notes / STEP_SECONDS:.3%} of "
        f"50 ms; helper {looks:.3%} of a core, {memory / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
