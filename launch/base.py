"""What a job is, and what a launcher does with it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from lumbre.config import SECRET, Choice
from lumbre.errors import LaunchError, Problem

PROGRAMS = ("pretrain", "finetune", "prepare")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Job:
    """A program of `lumbre` with its config and overrides, as one would type them."""

    program: str
    arguments: tuple[str, ...]

    @property
    def is_training(self) -> bool:
        """Whether several processes can share the work as ranks of one run."""
        return self.program != "prepare"

    @property
    def command(self) -> tuple[str, ...]:
        """What follows `python` in a process that runs the job."""
        return ("-m", "lumbre.cli", self.program, *self.arguments)

    def with_overrides(self, overrides: tuple[str, ...]) -> "Job":
        """Return the job with further `key.path=value`, which win over those it has."""
        return Job(self.program, (*self.arguments, *overrides))


@dataclass(frozen=True)
class Run:
    """A job whose config has been checked: what it is called and where it leaves its results."""

    job: Job
    name: str
    folder: Path
    """The run folder, absolute. `prepare` writes none."""
    global_batch_size: int | None = None
    """Samples of an optimizer step, where the config states them."""


@dataclass(frozen=True)
class Task:
    """What is done at one link of the chain: a run, or one for each point of the grid."""

    name: str
    """The name of its run; of a grid's runs, what their names begin with."""
    runs: tuple[Run, ...]

    @property
    def program(self) -> str:
        """The program of its runs."""
        return self.runs[0].job.program


@dataclass(frozen=True)
class Launch:
    """A chain of tasks, each of which begins when the one before it has done all its runs."""

    name: str
    tasks: tuple[Task, ...]
    folder: Path
    """Where its scripts, record and logs go, absolute; nothing is written until it is submitted."""
    directory: Path
    """Where relative paths of the configs begin, absolute: the folder that `lumbre launch` was called in."""


Remember = Callable[[dict[str, Any]], None]
"""Writes the record of the launch with what its launcher must know to follow it; may be called again."""


class Launcher(Protocol):
    """Starts launches."""

    def world_size(self, job: Job) -> int:
        """Return how many processes the job gets in all."""

    def faults(self) -> Iterator[Problem]:
        """Yield what this place cannot give: a partition, a host, an image that is not there.

        Called before the configs are checked, and not for a dry run, which needs no cluster.
        """

    def render(self, launch: Launch) -> dict[str, str]:
        """Return the files of the launch by name: what is run, as a person would read it. Pure."""

    def submit(self, launch: Launch, remember: Remember) -> int:
        """Start the jobs, and return the exit status: how they ended, or 0 where they go on by themselves.

        Raises LaunchError with the system's own words where it refuses.
        """


class Follower(Launcher, Protocol):
    """Starts launches that can be followed from any other shell."""

    def status(self, record: "Record") -> "list[JobState]":
        """Return each job's state, as the system tells it."""

    def logs(self, record: "Record") -> Iterator[str]:
        """Yield the jobs' output so far, line by line, the latest job's last."""

    def cancel(self, record: "Record") -> None:
        """Ask all jobs that have not ended to save and stop."""


@dataclass(frozen=True)
class Record:
    """A launch that was submitted, as its record tells it."""

    launch: Launch
    state: dict[str, Any]
    time: float


@dataclass(frozen=True)
class JobState:
    """One job of a launch on the screen."""

    name: str
    state: str
    """The system's word: PENDING, RUNNING, COMPLETED, ..."""
    detail: str = ""
    """Where it runs, why it waits, how it ended."""
    step: int | None = None


class LauncherConfig(Choice):
    """Where and how jobs are started."""

    launch_name: str | None = Field(None, min_length=1)
    """What `lumbre launch status|logs|cancel` call it; the name of the last job's run when absent."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the jobs."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Values to try by dotted key of the last job's config; every combination is a run of its own."""

    def problems(self) -> Iterator[Problem]:
        """Report secrets and names that no environment has, and a grid without values."""
        for name in self.env:
            if SECRET.search(name):
                remedy = f"export {name} in your shell instead; the job gets it from there"
                yield Problem(f"env.{name}", "looks like a secret, which does not belong in a file", remedy)
            if not VARIABLE.fullmatch(name):
                yield Problem(f"env.{name}", "is no name of a variable", "use letters, digits and _")
        for key, values in self.grid.items():
            if not values:
                yield Problem(f"grid.{key}", "has no value", "give a list of values")
            if key in ("name", "runs_folder"):
                yield Problem(f"grid.{key}", "is set for each run by itself", "leave it out of the grid")

    def build(self) -> Launcher:
        """Return the launcher."""
        raise NotImplementedError


class RemoteConfig(LauncherConfig):
    """What launchers share that start jobs elsewhere, where this shell's environment is not."""

    pass_env: list[str] = Field(default=["WANDB_API_KEY", "WANDB_BASE_URL", "HF_TOKEN"])
    """Variables taken from this shell where it has them; their values are never written to a file."""

    def problems(self) -> Iterator[Problem]:
        """Report what is no name, and what is told twice."""
        yield from super().problems()
        for index, name in enumerate(self.pass_env):
            if not VARIABLE.fullmatch(name):
                yield Problem(f"pass_env.{index}", f"{name!r} is no name of a variable", "use NAME alone")
            elif name in self.env:
                yield Problem(f"pass_env.{index}", f"{name} is set by env too", "keep one of the two")

    def build(self) -> Follower:
        """Return the launcher."""
        raise NotImplementedError


class CheckError(LaunchError):
    """The program refused the job, and has said why on stderr."""
