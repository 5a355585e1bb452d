"""Jobs of a cluster: applied, followed, cancelled."""

import os
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from lumbre.errors import ExitStatus, LaunchError, Problem

from .. import records
from ..base import Job, JobState, Launch, Record, Remember, Run, Task
from ..outcome import last_step, say
from .kubectl import Kubectl, state_of
from .manifests import kind_of, manifests
from .pod import RUN_LABEL, name_of, nodes, processes, refuse_unseen
from .text import dump

if TYPE_CHECKING:
    from .config import KubernetesConfig

LOOK_SECONDS = 5.0
LAST_LINES = 20


class KubernetesLauncher:
    """Applies a job for each run; of a chain, each task's when the one before it has done."""

    def __init__(self, config: "KubernetesConfig", look_seconds: float = LOOK_SECONDS) -> None:
        self._config = config
        self._kubectl = Kubectl(config)
        self._look_seconds = look_seconds

    def world_size(self, job: Job) -> int:
        """Return how many processes the job gets."""
        return nodes(self._config, job) * processes(self._config, job)

    def faults(self) -> Iterator[Problem]:
        """Yield what the cluster lacks, as kubectl tells it."""
        return self._kubectl.faults()

    def render(self, launch: Launch) -> dict[str, str]:
        """Return a manifest for each run; raises LaunchError for run folders on no volume."""
        refuse_unseen(self._config, launch)
        return {_file(run): self._text(launch, run) for task in launch.tasks for run in task.runs}

    def submit(self, launch: Launch, remember: Remember) -> int:
        """Apply the jobs. The last task goes on by itself; those before it are waited for.

        Raises LaunchError in kubectl's words, and for a run whose job has not ended.
        """
        records.write_files(launch.folder, self.render(launch))
        self._tell_what_stays()
        for place, task in enumerate(launch.tasks):
            for run in task.runs:
                self._replace(launch, run)
                remember({})
                say(f"{run.name} is {kind_of(self._config, run)} {name_of(run)}")
            if place < len(launch.tasks) - 1 and not self._wait(task):
                return ExitStatus.BUG
        say(f"follow it with: lumbre launch status|logs|cancel {launch.name}")
        return ExitStatus.DONE

    def status(self, record: Record) -> list[JobState]:
        """Return the state of each run's job."""
        runs = [run for task in record.launch.tasks for run in task.runs]
        return [JobState(run.name, *self._state(run), last_step(run.folder)) for run in runs]

    def logs(self, record: Record) -> Iterator[str]:
        """Yield what the pods have put out that the cluster still keeps."""
        for run in (run for task in record.launch.tasks for run in task.runs):
            yield from self._kubectl.logs(f"{RUN_LABEL}={name_of(run)}")

    def cancel(self, record: Record) -> None:
        """Delete the jobs that have not ended; their pods save first. Raises LaunchError where all have."""
        runs = [run for task in record.launch.tasks for run in task.runs]
        alive = [run for run in runs if self._state(run)[0] in ("RUNNING", "PENDING")]
        if not alive:
            raise LaunchError(f"{record.launch.name}: none of its jobs is running or waiting")
        for run in alive:
            self._kubectl.delete(self._text(record.launch, run), wait=False)

    def _text(self, launch: Launch, run: Run) -> str:
        return dump(manifests(self._config, launch, run))

    def _state(self, run: Run) -> tuple[str, str]:
        return state_of(self._kubectl.job(kind_of(self._config, run), name_of(run)))

    def _replace(self, launch: Launch, run: Run) -> None:
        """Apply a run's job, in place of one that has ended: the cluster would take it for done."""
        state, _ = self._state(run)
        if state in ("RUNNING", "PENDING"):
            raise LaunchError(f"{run.name}: its job {name_of(run)} has not ended; cancel it, or wait for it")
        text = self._text(launch, run)
        if state != "ABSENT":
            self._kubectl.delete(text, wait=True)
        self._kubectl.apply(text)

    def _wait(self, task: Task) -> bool:
        """Wait for a task's jobs; where one fails, tell why with the end of its log."""
        say(f"waiting for {task.name}: the chain goes on while this command runs")
        left = list(task.runs)
        while left:
            time.sleep(self._look_seconds)
            for run in left.copy():
                state, detail = self._state(run)
                if state in ("FAILED", "ABSENT"):
                    say(f"{run.name}: {state.lower()}: {detail}")
                    if state == "FAILED":
                        lines = list(self._kubectl.logs(f"{RUN_LABEL}={name_of(run)}"))
                        for line in islice(lines, max(0, len(lines) - LAST_LINES), None):
                            say(line)
                    return False
                if state == "COMPLETED":
                    left.remove(run)
        return True

    def _tell_what_stays(self) -> None:
        """Say which variables of this shell the pods will not have."""
        names = [name for name in self._config.pass_env if name in os.environ]
        if names and self._config.secret is None:
            say(f"{', '.join(names)}: not passed; put them in a Secret of the cluster, and set secret")


def _file(run: Run) -> str:
    return f"{name_of(run)}.yaml"
