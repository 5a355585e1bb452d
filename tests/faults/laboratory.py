"""Faults at random, seeded moments in one run on two ranks, and the verdict on what became of it."""

import math
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumbre.tracking import jsonl
from tests.faults.disk import CannotMountError, small_disk
from tests.faults.kinds import Fault, starve_disk
from tests.faults.processes import kill_family, processes_in
from tests.faults.scene import Scene

SAVE_EVERY = 3
DISK = "64m"
"""Many times what the runs take."""
STEPS_A_FAULT = 4
"""Most steps that are waited for between one fault and the next."""
ROOM = 12
"""Steps more for each, so that the run is not at its end before its faults are: harm may take its time."""
SUPERVISED = ("launch", "local", "processes=2", "threads_per_process=1", "restarts_without_progress=1000")
MEASURED = ("loss", "grad_norm", "eval/loss")
WEIGHTS = Path("model/model.safetensors")
TOLD = re.compile(
    r"at step (?P<ended>\d+); restart|(?P<skipped>checkpoint_skipped)|resumed +from step (?P<from>\d+)"
)
"""What the log says of restarts: the step that an attempt had come to, and where the next begins."""


@dataclass
class Verdict:
    """What became of a run."""

    struck: list[str] = field(default_factory=list)
    """What was done, in order, and in which moment."""
    lost: list[int] = field(default_factory=list)
    """Steps that each restart had to do again."""
    restarts: int = 0
    harmed: int = 0
    """Checkpoints that were damaged on purpose."""
    skipped: int = 0
    """How often a run that began found one of them, and skipped it."""
    problems: list[str] = field(default_factory=list)
    """What should not be; empty for a run to which nothing bad has come."""


def endure(
    folder: Path,
    config: str,
    faults: Sequence[Fault],
    count: int,
    seed: int,
    *options: str,
    name: str = "run",
    until: float = math.inf,
) -> Iterator[Verdict]:
    """Do `count` faults of the kinds given to a run in a project folder; yield the verdict after each.

    The last one is of the whole run.

    Every moment and victim follows from the seed, as far as processes let them. No fault is done after
    `until` of the monotonic clock.
    """
    verdict, chance = Verdict(), random.Random(seed)
    steps = (STEPS_A_FAULT + ROOM) * count + 8
    job = ["pretrain", config, *options, f"train.steps={steps}", f"checkpoint.every_steps={SAVE_EVERY}"]
    done = subprocess.run(
        _line(0, [*job, f"name={name}-steady"]), cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run, log = folder / "runs" / name, folder / f"{name}.log"

    def start() -> "subprocess.Popen[str]":
        with log.open("a") as out:
            line = _line(count + 8, [*job, f"name={name}"])
            return subprocess.Popen(line, cwd=folder, stdout=out, stderr=out, text=True)

    scene, waiting = Scene(start, run, log, chance), list[Fault]()
    try:
        for _ in range(count):
            if time.monotonic() > until:
                break
            moment = _come(scene)
            if not moment:
                verdict.problems.append(f"the run ended after {len(verdict.struck)} faults")
                break
            # Each kind once before any comes again.
            waiting = waiting or chance.sample(list(faults), len(faults))
            before, fault = scene.step(), waiting.pop()
            verdict.struck.append(f"{moment}, step {before}: {fault(scene)}")
            verdict.harmed = len(scene.harmed)
            verdict.problems += [f"{verdict.struck[-1]}: {name} is damaged" for name in scene.damaged()]
            yield verdict
        while not scene.has_ended():
            time.sleep(0.05)
        if status := scene.launcher.returncode:
            verdict.problems.append(f"the launcher ended with {status}: {log.read_text()[-2000:]}")
        verdict.problems += _losses(log.read_text(), verdict)
        verdict.problems += _differences(run, folder / "runs" / f"{name}-steady", steps)
        yield verdict
    finally:
        kill_family(scene.launcher.pid)
        scene.launcher.wait()


@contextmanager
def disk_for(folder: Path, faults: Sequence[Fault]) -> Iterator[Sequence[Fault]]:
    """Have the runs on a small disk where one is to be starved; yield what can be done here of the faults."""
    with ExitStack() as stack:
        if starve_disk in faults:
            try:
                stack.enter_context(small_disk(folder / "runs", DISK))
            except CannotMountError:
                faults = [fault for fault in faults if fault is not starve_disk]
        yield faults


def _line(restarts: int, job: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "lumbre.cli", *SUPERVISED, f"restarts={restarts}", "--", *job]


def _come(scene: Scene) -> str:
    """Wait for the moment of the next fault: while ranks start, train or save; "" where the run has ended."""
    if not scene.wait_for(lambda: len(scene.ranks()) == 2):
        return ""
    moment = scene.chance.choice(("starting", "training", "training", "saving", "saving"))
    wanted = scene.step() + scene.chance.randint(1, STEPS_A_FAULT - 1)
    latest = time.monotonic() + (scene.chance.uniform(0, 10) if moment == "starting" else math.inf)

    def now() -> bool:
        if moment == "saving":
            return scene.is_saving() and scene.step() >= min(wanted, 1)
        return time.monotonic() > latest or scene.step() >= wanted

    if not scene.wait_for(now):
        return ""
    time.sleep(scene.chance.uniform(0, 0.02 if moment == "saving" else 0.1))
    return "" if scene.has_ended() else moment


def _losses(log: str, verdict: Verdict) -> list[str]:
    """Take from the log what each restart has lost; return where that is more than it may be.

    That is one save interval, the save in flight, as long, and one for each damaged checkpoint.
    """
    problems, ended, skipped = [], None, 0
    verdict.restarts = log.count("; restart ")
    for told in TOLD.finditer(log):
        if told["ended"]:
            ended = int(told["ended"]) if ended is None else ended
        elif told["skipped"]:
            skipped += 1
        elif ended is not None:
            verdict.lost.append(max(0, ended - int(told["from"])))
            if verdict.lost[-1] > SAVE_EVERY * (2 + skipped):
                problems.append(f"{verdict.lost[-1]} steps lost at step {ended}")
            verdict.skipped += skipped
            ended, skipped = None, 0
    if verdict.skipped < verdict.harmed:
        problems.append(f"{verdict.harmed} checkpoints damaged, and {verdict.skipped} found")
    return problems


def _differences(run: Path, steady: Path, steps: int) -> list[str]:
    """Return in what a run's rows and weights differ from those of the one that nothing was done to."""
    left = processes_in(run.parent.parent)
    problems = [f"processes are left: {left}"] if left else []
    problems += [f"{path.name} is left in checkpoints/" for path in (run / "checkpoints").glob(".*")]
    rows = jsonl.read(run / "metrics.jsonl")
    logged = Counter(row["step"] for row in rows if "loss" in row)
    if logged != Counter(range(1, steps + 1)):
        wrong = sorted(step for step in {*logged, *range(1, steps + 1)} if logged[step] != 1)
        problems.append(f"steps that do not stand once in metrics.jsonl: {wrong[:20]}")
    if _measured(run) != _measured(steady):
        problems.append("losses, gradient norms or evaluations are not the unbroken run's")
    if not (run / WEIGHTS).exists() or (run / WEIGHTS).read_bytes() != (steady / WEIGHTS).read_bytes():
        problems.append("the final weights are not the unbroken run's")
    return problems


def _measured(run: Path) -> list[tuple[int, str, Any]]:
    rows = jsonl.read(run / "metrics.jsonl")
    return [(row["step"], key, row[key]) for row in rows for key in MEASURED if key in row]
