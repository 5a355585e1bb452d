"""A run that is killed again and again is one run of W&B: read back, its steps rise and none is lacking."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from lumbre.tracking import jsonl

ROOT = Path(__file__).resolve().parents[2]

# A loop as the trainer's, with a checkpoint every 7 steps, from which the next part goes on.
SCRIPT = """
import sys, time
from pathlib import Path
from lumbre.tracking import RunInfo, Trackers, WandbConfig
folder, last = Path(sys.argv[1]), int(sys.argv[2])
saved = folder / "saved"
start = int(saved.read_text()) if saved.is_file() else 0
trackers = Trackers.start(RunInfo("killed", folder, {}, last, start), [WandbConfig(mode="offline")])
if start:
    trackers.log({"step": start, "event": "resumed"})
for step in range(start + 1, last + 1):
    time.sleep(0.005)
    trackers.log({"step": step, "loss": 1000.0 - step})
    if step % 10 == 0:
        trackers.log({"step": step, "eval/loss": 2000.0 - step})
    if step % 7 == 0:
        saved.with_suffix(".new").write_text(str(step))
        saved.with_suffix(".new").replace(saved)
trackers.finish(0)
"""


def part(folder: Path, last: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(last)], cwd=ROOT, stdout=subprocess.DEVNULL
    )


def killed(folder: Path, after_rows: int, *, with_service: bool) -> None:
    """Start a part and kill it once it has logged so many rows; with its helper, as a power cut does."""
    file = folder / "metrics.jsonl"
    seen = len(jsonl.read(file))
    process = part(folder, 100_000)
    while len(jsonl.read(file)) < seen + after_rows:
        assert process.poll() is None
        time.sleep(0.05)
    services = psutil.Process(process.pid).children() if with_service else []
    for one in [process, *services]:
        with suppress(psutil.NoSuchProcess):
            os.kill(one.pid, signal.SIGKILL)
    process.wait()


def assert_is_one_run(folder: Path, records) -> None:
    found = records(folder)
    assert len({record["run"]["run_id"] for record in found if record["type"] == "run"}) == 1
    rows = [record["history"]["item"] for record in found if record["type"] == "history"]
    steps = [row["_step"] for row in rows]
    assert all(one < two for one, two in pairwise(steps))
    metrics = jsonl.read(folder / "metrics.jsonl")
    for key in ("loss", "eval/loss"):
        wanted = {row["step"]: row[key] for row in metrics if key in row}
        assert {row["step"]: row[key] for row in rows if key in row} == wanted


def test_a_run_that_is_killed_and_resumed_is_one_run(clean, tmp_path, records):
    killed(tmp_path, 300, with_service=False)
    last = int((tmp_path / "saved").read_text()) + 50
    assert part(tmp_path, last).wait() == 0
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    assert_is_one_run(tmp_path, records)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_at_random_moments_is_one_run(clean, tmp_path, records, seed):
    chance = random.Random(seed)
    for _ in range(5):
        # The fewest rows fall into the first second, of which nothing is on the disk yet.
        killed(tmp_path, chance.choice([5, 40, 200, 500]), with_service=chance.random() < 0.5)
    last = int((tmp_path / "saved").read_text()) + 50
    assert part(tmp_path, last).wait() == 0
    state = json.loads((tmp_path / "wandb" / "resume.json").read_text())
    assert all(state["id"] in folder.name for folder in (tmp_path / "wandb").glob("offline-run-*"))
    assert_is_one_run(tmp_path, records)
