"""Jobs on this machine: one plain process, or several under torchrun's agent."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import PositiveInt

from lumbre.errors import ExitStatus, LaunchError, Problem

from .agent import Command, agent, cores
from .attempt import attempt
from .base import Job, Launch, LauncherConfig, Remember, Run
from .fewer import most_that_fit, refuse_open_batch
from .outcome import say
from .restarts import RestartConfig, Restarts
from .signals import relayed_signals

DEVICES = "CUDA_VISIBLE_DEVICES"


class LocalConfig(RestartConfig, LauncherConfig):
    """Start jobs on this machine, one after the other, and wait for them."""

    type: Literal["local"] = "local"
    processes: PositiveInt = 1
    """Processes of a training run: one for each GPU, or a few that share the CPU's cores."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process (OMP_NUM_THREADS); the cores are shared out evenly when absent."""
    stop_timeout_seconds: PositiveInt = 3600
    """How long a job may take to save after a signal before what is left of it is killed."""

    def problems(self) -> Iterator[Problem]:
        """Report fewer processes than it may go on with."""
        yield from super().problems()
        yield from self.fewest(self.processes)

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

    def command(self, job: Job, places: Sequence[int] | None = None) -> Command:
        """Return what starts the job; `places` are the devices of its processes where some are left out."""
        count = self.world_size(job) if places is None else len(places)
        threads = self._config.threads_per_process or max(1, self._cores // count)
        environment = {"OMP_NUM_THREADS": str(threads), **self._config.env}
        words = job.command
        if places is not None:
            # Without GPUs nobody reads it.
            visible = os.environ.get(DEVICES)
            names = visible.split(",") if visible else [str(at) for at in range(self._config.processes)]
            environment[DEVICES] = ",".join(names[at] for at in places if at < len(names))
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
        runs = [run for task in launch.tasks for run in task.runs]
        if self._config.min_ranks is not None:
            for run in runs:
                refuse_open_batch(run)
        status = int(ExitStatus.DONE)
        for run in runs:
            if status == ExitStatus.DONE:
                status = self._run(run)
        return status

    def _run(self, run: Run) -> int:
        """Make attempts at the run until one ends as meant, or no restart is left; return how it ended.

        The same processes are started again; one that ends attempt after attempt is left out with its
        device where min_ranks lets it.
        """
        places: list[int] | None = None
        restarts = Restarts(self._config, run, patience_seconds=0)
        with relayed_signals() as relay:
            while True:
                command = self.command(run.job, places)
                command.environment.update(restarts.environment)
                end = attempt(command, run.folder, relay, self._config.stop_timeout_seconds)
                if not restarts.are_left(end, tell=self.world_size(run.job) > 1):
                    return end.status
                places = self._without(restarts, run, places)
                restarts.tell(
                    "" if places is None else f" on {len(places)} of {self._config.processes} ranks"
                )
                if relay.received:
                    return ExitStatus.STOPPED

    def _without(self, restarts: Restarts, run: Run, places: list[int] | None) -> list[int] | None:
        """Return the devices of the next attempt's processes."""
        at, fewest = restarts.culprit, self._config.min_ranks
        before = list(range(self.world_size(run.job))) if places is None else places
        if not isinstance(at, int) or fewest is None or len(before) <= fewest:
            return places
        left = before[:at] + before[at + 1 :]
        try:
            count = most_that_fit(run, len(left), fewest)
        except LaunchError as error:
            say(str(error))
            return places
        say(f"rank {at} has ended two attempts in a row and is left out")
        restarts.forgive()
        return left[:count]
