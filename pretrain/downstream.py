"""Probes of a pretraining run: small fine-tunings of its weights as they are, each a process of its own."""

import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, model_validator

from lumbre import distributed, watchdog
from lumbre.config import Config
from lumbre.engine import Engine
from lumbre.errors import ExitStatus, LumbreError, Problem
from lumbre.files import explained
from lumbre.signals import StopRequest
from lumbre.tracking import Row
from lumbre.world import environment_of_one

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
"""What a probe has to end by itself before it is killed."""
START = """\
import signal, sys
from lumbre.world import die_with_parent
die_with_parent(signal.SIGKILL, int(sys.argv.pop(1)))
from lumbre.cli import main
main()
"""
"""The command in a process that ends with this one; a hook before exec may hang where threads run."""
DEFAULTS = ("seeds=[]", "grid={}", "tracking=[]")
OURS = ("model", "model.path", "model.from_scratch", "name", "runs_folder", "compare_with_scratch")
"""Keys of a probe that the run sets."""
WANDB_VARIABLES = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME")
"""What ties a process to this run's W&B run."""
T = TypeVar("T")


class ProbeConfig(Config):
    """A fine-tuning config that measures the weights as they are; a plain string is its `config`."""

    config: str
    """A YAML file, or the NAME of configs/finetune/NAME.yaml."""
    overrides: list[str] = Field(default_factory=list)
    """Overrides of its keys, each `key.path=value`; without them one seed runs and nothing else tracks it."""
    name: str = ""
    """Its metrics on validation are downstream/NAME/METRIC; the config's name where it is left out."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"config": value} if isinstance(value, str) else value

    @property
    def title(self) -> str:
        """The name in the metrics."""
        return self.name or Path(self.config).stem

    def arguments(self, run: Path) -> list[str]:
        """Return the overrides with which `lumbre finetune` measures the copy of the run's weights."""
        work = working_folder(run)
        ours = {"model.path": str(work / "model"), "name": self.title, "runs_folder": str(work)}
        texts = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in ours.items()]
        return [*DEFAULTS, *self.overrides, "model.from_scratch=false", "compare_with_scratch=false", *texts]

    def problems(self) -> Iterator[Problem]:
        """Report a name that is no folder's, and keys that are the run's to set."""
        if (
            self.title in ("", ".", "..", "model", "stop")
            or "/" in self.title
            or not self.title.isprintable()
        ):
            yield Problem(
                "name", f"{self.title!r} cannot be a probe's name", "use letters, digits and dashes"
            )
        for index, text in enumerate(self.overrides):
            key = text.split("=")[0]
            if key in OURS:
                yield Problem(f"overrides.{index}", f"{key} is set by the run", "leave it out")


@dataclass(frozen=True)
class Outcome:
    """What one probe came to."""

    metrics: dict[str, float] = field(default_factory=dict)
    fault: str = ""
    cut_off: bool = False
    """Whether a signal ended it."""


class Downstream:
    """Runs probes on an exported copy of the weights, and leaves the run itself as it was.

    A probe leaves NAME-step-00000100.log, and NAME-step-00000100.json when it has ended well.
    """

    name = "downstream"

    def __init__(
        self,
        probes: Sequence[ProbeConfig],
        every: int | None,
        last_step: int,
        run: Path,
        export: Callable[[Path], None],
    ) -> None:
        """`export` writes the model as it is to a folder; all ranks call it."""
        self._probes = {probe.title: probe for probe in probes}
        self._every = every
        self._last_step = last_step
        self._run_folder = run
        self._folder = working_folder(run).parent
        self._work = working_folder(run)
        self._export = export
        self._step = 0
        self._done: list[str] = []

    def due(self, step: int) -> bool:
        """Whether some probe is to run after this step and has not."""
        on_time = step == self._last_step or (self._every is not None and step % self._every == 0)
        return step > 0 and on_time and bool(self._left(step))

    def run(self, engine: Engine, step: int, stop: StopRequest) -> Iterator[Row]:
        """Yield a row as each probe ends, its metrics or the event that it failed; every rank calls."""
        left = self._left(step)
        self._done = self._done if step == self._step else []
        self._step = step
        try:
            unwritten = self._write()
            for name in left:
                outcome = unwritten or self._alone(partial(self._measure, name, stop), stop)
                if outcome.cut_off:
                    return
                self._done.append(name)
                if outcome.fault:
                    message = f"{name}: {outcome.fault}"
                    yield {"event": "probe_failed", "step": step, "message": message, "time": time.time()}
                else:
                    named = {f"downstream/{name}/{key}": value for key, value in outcome.metrics.items()}
                    yield {"step": step, **named}
        finally:
            if distributed.world().is_main:
                shutil.rmtree(self._work, ignore_errors=True)

    def state(self) -> dict[str, Any]:
        """Return which probes have ended, and after which step."""
        return {"step": self._step, "done": list(self._done)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know again which probes have ended."""
        self._step, self._done = state.get("step", 0), list(state.get("done", []))

    def _left(self, step: int) -> list[str]:
        return [name for name in self._probes if step != self._step or name not in self._done]

    def _alone(self, work: Callable[[], T], stop: StopRequest) -> T:
        """Return on every rank what `work` gives on the main one.

        The others wait for a file's lock: a collective would time out. The kernel frees the lock of a
        process that dies.
        """
        file = self._run_folder / ".downstream.lock"
        result = None
        if distributed.world().is_main:
            with explained(file), file.open("a") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX)
                distributed.barrier()
                result = work()
        else:
            distributed.barrier()
            with file.open("rb") as lock:
                while not _shared(lock.fileno()):
                    watchdog.enter("waiting for rank 0, which probes")
                    if stop:
                        with suppress(OSError):
                            (self._work / "stop").touch()
                    time.sleep(POLL_SECONDS)
        told: T = distributed.from_main(result)
        return told

    def _write(self) -> Outcome | None:
        """Write the copy that the probes start from; return what they come to where that fails."""
        fault = ""
        if distributed.world().is_main:
            shutil.rmtree(self._work, ignore_errors=True)
        try:
            self._export(self._work / "model")
        except (LumbreError, OSError) as error:
            fault = str(error).splitlines()[0]
        told: str = distributed.from_main(fault)
        return Outcome(fault=told) if told else None

    def _measure(self, name: str, stop: StopRequest) -> Outcome:
        """Run one probe to its end, or until some rank is asked to stop."""
        probe, stem = self._probes[name], f"{name}-step-{self._step:08d}"
        log, results = self._folder / f"{stem}.log", self._work / name / "results.json"
        command = [sys.executable, "-c", START, str(os.getpid()), "finetune", probe.config]
        try:
            with log.open("wb") as out:
                # A group of its own: Ctrl-C reaches the run alone, which ends the probe.
                child = subprocess.Popen(
                    [*command, *probe.arguments(self._run_folder)],
                    env=environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    process_group=0,
                )
                try:
                    while child.poll() is None:
                        # The probe has a watchdog of its own.
                        watchdog.enter(f"waiting for probe {name}")
                        if stop or (self._work / "stop").exists():
                            return Outcome(cut_off=True)
                        time.sleep(POLL_SECONDS)
                finally:
                    _end(child)
            if child.returncode != ExitStatus.DONE:
                return Outcome(fault=f"{_last_line(log, child.returncode)}; see {log}")
            metrics = means(json.loads(results.read_bytes())["rows"])
            results.replace(self._folder / f"{stem}.json")
        except (OSError, ValueError, LookupError, TypeError) as error:
            return Outcome(fault=f"{type(error).__name__}: {error}; see {log}")
        return Outcome(metrics)


def working_folder(run: Path) -> Path:
    """Return where the run's probes work; it is gone when they have ended."""
    return run / "downstream" / "at-work"


def environment() -> dict[str, str]:
    """Return this process's environment without what ties it to the run."""
    alone = environment_of_one()
    return {name: alone[name] for name in alone if not name.startswith(WANDB_VARIABLES)}


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each metric over the rows of a results.json, one a seed.

    The metrics are those on the validation split: the test split is not for looking at on the way.
    """
    found = [row["validation"] for row in rows]
    return {key: statistics.fmean(its[key] for its in found) for key in found[0]}


def _shared(lock: int) -> bool:
    try:
        fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the probe and what it has started, if it has not ended."""
    if child.poll() is not None:
        return
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _last_line(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else f"ended with status {code}"
