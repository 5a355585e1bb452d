"""What a job is, what a launcher does with it, and the check that comes before either."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from lumbre.config import Choice
from lumbre.errors import LaunchError

PROGRAMS = ("pretrain", "finetune", "prepare")


@dataclass(frozen=True)
class Job:
    """A program of `lumbre` with its config and overrides, as one would type them."""

    program: str
    arguments: tuple[str, ...]

    @property
    def is_training(self) -> bool:
        """Whether several processes can share the work as ranks of one run."""
        return self.program != "prepare"


@dataclass(frozen=True)
class Command:
    """What is run: the arguments, and the variables added to the environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the command quoted for a shell."""
        sets = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*sets, shlex.join(self.arguments)])


class Launcher(Protocol):
    """Starts jobs: `render` is pure and says what will be run, `run` runs it."""

    def render(self, job: Job) -> str:
        """Return the command line or script that starts the job."""

    def run(self, job: Job) -> int:
        """Start the job, and return its exit status (see `lumbre.errors.ExitStatus`)."""


class LauncherConfig(Choice):
    """Where and how jobs are started."""

    def build(self) -> Launcher:
        """Return the launcher."""
        raise NotImplementedError


class CheckError(LaunchError):
    """The program refused the job, and has said why on stderr."""


def program_command(job: Job) -> tuple[str, ...]:
    """Return what follows `python` in a process that runs the job."""
    return ("-m", "lumbre.cli", job.program, *job.arguments)


def check(job: Job, world_size: int) -> dict[str, Any]:
    """Return the job's resolved config, as the program itself reads it for `world_size` processes.

    The program runs in a child with --dry-run; what it has to say goes to stderr as it is. Raises
    CheckError when it refuses the job.
    """
    world = {
        "RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world_size),
    }
    asked = subprocess.run(
        [sys.executable, *program_command(job), "--dry-run"],
        env={**os.environ, **world},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise CheckError(f"lumbre {job.program}: refused with status {asked.returncode}")
    resolved = yaml.safe_load(asked.stdout)
    return resolved if isinstance(resolved, dict) else {}
