"""Chains of containers on this machine: run one after the other, followed, cancelled."""

import signal
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from lumbre.errors import ExitStatus, LaunchError, Problem

from .. import records
from ..attempt import end_of
from ..base import Job, JobState, Launch, Record, Remember, Run
from ..outcome import EXIT_FILE, ExitRecord, last_step, read, say
from ..signals import relayed_signals
from .container import SCRIPT, line, name_of, processes, refuse_unseen, script
from .engine import Engine

if TYPE_CHECKING:
    from .config import DockerConfig


class DockerLauncher:
    """Runs each job in a container and returns how the first that failed, or the last, ended."""

    def __init__(self, config: "DockerConfig", cores: int, user: tuple[int, int]) -> None:
        self._config = config
        self._cores = cores
        self._user = user
        self._engine = Engine(config.command)

    def world_size(self, job: Job) -> int:
        """Return how many processes the job gets."""
        return processes(self._config, job)

    def faults(self) -> Iterator[Problem]:
        """Yield what is missing: the engine, or the image."""
        return self._engine.faults(self._config.image)

    def render(self, launch: Launch) -> dict[str, str]:
        """Return the script that starts them; raises LaunchError for run folders they do not see."""
        refuse_unseen(self._config, launch)
        runs = _runs(launch)
        return {
            SCRIPT: script(self._config, [self._line(launch, run) for run in runs], [*map(name_of, runs)])
        }

    def submit(self, launch: Launch, remember: Remember) -> int:
        """Run the jobs one after the other up to the first that does not end with 0.

        SIGINT, SIGTERM, SIGHUP and SIGUSR1 are passed on, so that a job saves and ends with 75; where this
        process is killed its container goes on. Raises LaunchError when one cannot be started.
        """
        records.write_files(launch.folder, self.render(launch))
        remember({})
        status = int(ExitStatus.DONE)
        for run in _runs(launch):
            for _ in range(1 + self._config.max_restarts):
                status = self._run(launch, run)
                if status != ExitStatus.WATCHDOG:
                    break
            if status != ExitStatus.DONE:
                break
        return status

    def status(self, record: Record) -> list[JobState]:
        """Return the state of each run's container."""
        return [self._state(run, record.time) for run in _runs(record.launch)]

    def logs(self, record: Record) -> Iterator[str]:
        """Yield what each container has put out; those that have not begun yield nothing."""
        for run in _runs(record.launch):
            if self._engine.state(name_of(run)) is not None:
                yield from self._engine.logs(name_of(run))

    def cancel(self, record: Record) -> None:
        """Ask the container that runs to save and stop; raises LaunchError where none does."""
        names = [name_of(run) for run in _runs(record.launch)]
        running = [name for name in names if self._engine.state(name) == "running"]
        if not running:
            raise LaunchError(f"{record.launch.name}: none of its containers is running")
        for name in running:
            self._engine.signal(name, signal.SIGTERM)

    def _line(self, launch: Launch, run: Run) -> list[str]:
        return line(self._config, launch, run, self._cores, self._user)

    def _run(self, launch: Launch, run: Run) -> int:
        record = ExitRecord.of(run.folder)
        name = name_of(run)
        self._engine.start(self._line(launch, run), name)
        say(f"{run.name} is container {name}")
        send = partial(self._engine.signal, name)
        with relayed_signals() as relay, relay.to(send, send) as received:
            code = self._engine.wait(name)
        end = end_of(record, code, received)
        end.say()
        return end.status

    def _state(self, run: Run, since: float) -> JobState:
        state = self._engine.state(name_of(run))
        if state is None:
            return JobState(run.name, "ABSENT", "not begun, or removed")
        detail = ""
        file = run.folder / EXIT_FILE
        if state != "running" and (ended := read(file)) and file.stat().st_mtime >= since:
            detail = ended.told
        return JobState(run.name, state.upper(), detail or name_of(run), last_step(run.folder))


def _runs(launch: Launch) -> list[Run]:
    return [run for task in launch.tasks for run in task.runs]
