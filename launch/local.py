"""Jobs on this machine: one plain process, or several under torchrun's agent."""

import sys
from collections.abc import Iterator
from typing import Literal

from pydantic import PositiveInt

from lumbre.errors import ExitStatus, Problem

from .agent import Command, agent, cores
from .attempt import attempt
from .base import Job, Launch, LauncherConfig, Remember


class LocalConfig(LauncherConfig):
    """Start jobs on this machine, one after the other, and wait for them."""

    type: Literal["local"] = "local"
    processes: PositiveInt = 1
    """Processes of a training run: one for each GPU, or a few that share the CPU's cores."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process (OMP_NUM_THREADS); the cores are shared out evenly when absent."""
    stop_timeout_seconds: PositiveInt = 3600
    """How long a job may take to save after a signal before what is left of it is killed."""

    def build(self) -> "LocalLauncher":
        """Return the launcher for this machine."""
        return LocalLauncher(self, cores())


class LocalLauncher:
    """Runs the jobs to their end and returns how the first that failed, or the last, ended."""

    def __init__(self, config: LocalConfig, cores: int) -> None:
        self._config = config
        self._cores = cores

    def world_size(self, job: Job) -> int:
        """Return how many processes the job gets."""
        return self._config.processes if job.is_training else 1

    def faults(self) -> Iterator[Problem]:
        """Yield nothing: what this machine has is told by the program's own check."""
        yield from ()

    def command(self, job: Job) -> Command:
        """Return what starts the job."""
        count = self.world_size(job)
        threads = self._config.threads_per_process or max(1, self._cores // count)
        environment = {"OMP_NUM_THREADS": str(threads), **self._config.env}
        words = job.command
        if count > 1:
            words = agent(job, count, self._config.stop_timeout_seconds, ["--standalone"])
        return Command((sys.executable, *words), environment)

    def render(self, launch: Launch) -> dict[str, str]:
        """Return the shell commands that start the jobs, one a line."""
        lines = [str(self.command(run.job)) for task in launch.tasks for run in task.runs]
        return {"command": "\n".join(lines)}

    def submit(self, launch: Launch, remember: Remember) -> int:
        """Run the jobs one after the other up to the first that does not end with 0.

        SIGINT, SIGTERM, SIGHUP and SIGUSR1 are passed on, so that a job saves and ends with 75.
        Raises LaunchError when one cannot be started.
        """
        status = int(ExitStatus.DONE)
        for run in (run for task in launch.tasks for run in task.runs):
            if status == ExitStatus.DONE:
                several = self.world_size(run.job) > 1
                status = attempt(self.command(run.job), run.folder, tell=several)
        return status
