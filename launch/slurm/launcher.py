"""Chains of Slurm jobs: submitted, followed, cancelled."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lumbre.errors import ExitStatus, LaunchError, Problem

from .. import records
from ..base import Job, JobState, Launch, Record, Remember, Run
from ..outcome import say
from . import cluster
from .faults import faults
from .script import log_name, log_pattern, mounts, processes, script, script_names
from .states import state_of

if TYPE_CHECKING:
    from .config import SlurmConfig


class SlurmLauncher:
    """Submits a batch script for each task, each after the one before it."""

    def __init__(self, config: "SlurmConfig") -> None:
        self._config = config

    def world_size(self, job: Job) -> int:
        """Return how many processes the job gets."""
        return self._config.nodes * processes(self._config) if job.is_training else 1

    def faults(self) -> Iterator[Problem]:
        """Yield what the cluster lacks, as sinfo and sacctmgr tell it."""
        return faults(self._config)

    def render(self, launch: Launch) -> dict[str, str]:
        """Return the batch scripts, in the order in which they are submitted."""
        names = script_names(launch)
        pairs = zip(launch.tasks, names, strict=True)
        return {name: script(self._config, launch, task, name) for task, name in pairs}

    def submit(self, launch: Launch, remember: Remember) -> int:
        """Submit the scripts; all or none are queued. Raises LaunchError in sbatch's words."""
        _refuse_twice(launch)
        self._refuse_paths(launch)
        files = self.render(launch)
        records.write_files(launch.folder, files)
        numbers: list[str] = []
        try:
            for name, task in zip(files, launch.tasks, strict=True):
                after = numbers[-1] if numbers else None
                numbers.append(cluster.submit(name, log_pattern(name, task), launch.folder, after))
            remember({"jobs": numbers})
        except LaunchError:
            if numbers:
                cluster.ask("scancel", *numbers)
            raise
        for name, number in zip(files, numbers, strict=True):
            say(f"{name} is job {number}")
        say(f"follow it with: lumbre launch status|logs|cancel {launch.name}")
        return ExitStatus.DONE

    def _refuse_paths(self, launch: Launch) -> None:
        """Raise LaunchError for folders that Slurm or a container's runtime would read otherwise."""
        if "\\" in str(launch.folder):
            raise LaunchError(
                f"{launch.folder}: Slurm writes no log to a path with \\; call from another folder"
            )
        for folder in [
            one for task in launch.tasks for one in mounts(launch, task) if self._config.container
        ]:
            if {",", ":"} & {*str(folder)}:
                raise LaunchError(f"{folder}: no container can mount a path with , or :; rename the folder")

    def status(self, record: Record) -> list[JobState]:
        """Return each run's state."""
        known = cluster.jobs(record.state["jobs"])
        return [state_of(run, known.get(number), record.time, log) for run, number, log in _runs(record)]

    def logs(self, record: Record) -> Iterator[str]:
        """Yield the logs of the jobs that have begun; a name above each where there are several."""
        logs = [log for _, _, log in _runs(record) if log.exists()]
        for log in logs:
            if len(logs) > 1:
                yield f"==> {log.name}"
            yield from log.read_text(encoding="utf-8", errors="replace").splitlines()
        if not logs:
            yield from (f"{job.name}: {job.state}: no log yet; {job.detail}" for job in self.status(record))

    def cancel(self, record: Record) -> None:
        """Take back what waits, and ask what runs to save and end for good."""
        numbers = list(record.state["jobs"])
        for job in cluster.jobs(numbers).values():
            if job.state == "PENDING":
                cluster.ask("scancel", job.number)
            elif job.state in cluster.ACTIVE:
                # It may have ended since it was seen.
                with suppress(LaunchError):
                    cluster.ask("scontrol", "update", f"JobId={job.number}", "Requeue=0")
                    cluster.ask("scancel", "--batch", "--signal=USR1", job.number)


def _refuse_twice(launch: Launch) -> None:
    """Raise LaunchError where jobs of the same name have not ended."""
    if launch.name not in records.known():
        return
    launcher, record = records.read(launch.name)
    if isinstance(launcher, SlurmLauncher):
        for job in cluster.jobs(record.state["jobs"]).values():
            if job.state in cluster.ACTIVE:
                remedy = f"`lumbre launch cancel {launch.name}`, or set another launch_name"
                raise LaunchError(f"{launch.name}: job {job.number} is {job.state} already; {remedy}")


def _runs(record: Record) -> Iterator[tuple[Run, str, Path]]:
    """Yield each run with the number of its job and its log."""
    launch = record.launch
    for task, name, number in zip(launch.tasks, script_names(launch), record.state["jobs"], strict=True):
        for index, run in enumerate(task.runs):
            whole = f"{number}_{index}" if len(task.runs) > 1 else number
            yield run, whole, launch.folder / log_name(name, whole)
