"""Jobs on plain hosts: this process stays with them, and ends all when one is lost."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from lumbre.errors import ExitStatus, LaunchError, Problem
from lumbre.world import ENDINGS

from ..attempt import End, end_of
from ..base import Job, JobState, Launch, Record, Remember, Run
from ..fewer import most_that_fit, refuse_open_batch
from ..outcome import ExitRecord, last_step, say
from ..rank_ends import first_end, read_rank_ends
from ..records import LAUNCHES, write_files
from ..restarts import Restarts
from . import foreground
from .config import SshConfig
from .connection import address_of, ask_all, ssh_line
from .crew import Crew, Ending, Station, noted_signals
from .hosts import Host
from .look import Look, look, markers
from .remote import LAUNCH_VARIABLE, version
from .script import script

LOOK_SECONDS = 1.0
TAIL_LINES = 20


class SshLauncher:
    """Runs the jobs to their end on all hosts and returns how the first that failed, or the last, ended."""

    def __init__(self, config: SshConfig, hosts: Sequence[Host]) -> None:
        self._config = config
        self._hosts = hosts
        self._python = config.python or sys.executable

    def world_size(self, job: Job) -> int:
        """Return how many processes the job gets in all."""
        return sum(host.slots for host in self._hosts) if job.is_training else 1

    def faults(self) -> Iterator[Problem]:
        """Yield the hosts that do not answer, have another Lumbre or torch, or do not see this folder."""
        with markers([Path(LAUNCHES).absolute()]) as files:
            replies = ask_all(self._config, self._hosts, self._python, {"files": files, "launch": ""})
        for reply in replies:
            if reply.fault:
                yield Problem("hosts", reply.fault, reply.remedy)
                continue
            for package in ("lumbre", "torch"):
                here, there = version(package), reply.found[package]
                if here != there:
                    fault = f"{reply.host.name} has {package} {there}, and {here} is here"
                    yield Problem("hosts", fault, f"install the same, or set python (it is {self._python})")
            if reply.found["unseen"]:
                fault = f"{reply.host.name} does not see {Path.cwd()} as it is here"
                yield Problem("hosts", fault, "call from a folder that all hosts share under the same path")

    def render(self, launch: Launch) -> dict[str, str]:
        """Return the hosts and the script of each run."""
        files = {"hostfile": "".join(f"{host.name} slots={host.slots}\n" for host in self._hosts)}
        threads = self._config.threads_per_process
        environment = {
            # What is printed through a pipe would otherwise wait until there is much of it.
            "PYTHONUNBUFFERED": "1",
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            **self._config.env,
        }
        for number, run in enumerate(runs_of(launch), 1):
            files[script_name(number, run)] = script(
                run,
                str(launch.directory),
                self._python,
                environment,
                len(self._hosts),
                self.world_size(run.job),
                self._config.stop_timeout_seconds,
            )
        return files

    def submit(self, launch: Launch, remember: Remember) -> int:
        """Run the jobs one after the other up to the first that does not end with 0.

        SIGINT, SIGTERM, SIGHUP and SIGUSR1 are passed on, so that a job saves and ends with 75; 76 where a
        host was lost. Raises LaunchError where a host does not see the folders of the runs.
        """
        runs = runs_of(launch)
        if self._config.min_ranks is not None:
            for run in runs:
                refuse_open_batch(run)
        write_files(launch.folder, self.render(launch))
        states = [JobState(run.name, "PENDING") for run in runs]
        status = int(ExitStatus.DONE)
        for number, run in enumerate(runs, 1):

            def note(state: str, detail: str, at: int = number - 1) -> None:
                states[at] = JobState(states[at].name, state, detail)
                remember({**foreground.identity(), "runs": [asdict(one) for one in states]})

            end = self._attempts(launch, number, run, note)
            note(foreground.STATES.get(end.status, "FAILED"), end.told or "done")
            status = end.status
            if status != ExitStatus.DONE:
                break
        return status

    def status(self, record: Record) -> list[JobState]:
        """Return each run's state; of one whose launcher was killed, what the run itself recorded."""
        return foreground.status(record)

    def logs(self, record: Record) -> Iterator[str]:
        """Yield what each host has printed; the first host's comes last."""
        for host in reversed(self._hosts):
            file = log_of(record.launch.folder, host)
            if file.is_file():
                yield f"==> {host.name}"
                with file.open(encoding="utf-8", errors="replace") as lines:
                    yield from (line.rstrip("\n") for line in lines)

    def cancel(self, record: Record) -> None:
        """Ask the launcher to have the job saved and stopped; raises LaunchError where it is elsewhere."""
        foreground.cancel(record)

    def _at_work(self, run: Run) -> Sequence[Host]:
        return self._hosts if run.job.is_training else self._hosts[:1]

    def _attempts(self, launch: Launch, number: int, run: Run, note: Callable[[str, str], None]) -> End:
        """Make attempts at the run until one ends as meant, or no restart is left; return how it ended."""
        patience = self._config.stop_timeout_seconds + self._config.answer_timeout_seconds
        restarts = Restarts(self._config, run, patience)
        with noted_signals() as signals:
            seen = look(self._config, self._python, launch, run, self._at_work(run))
            if seen.faults:
                raise LaunchError("\n".join(seen.faults))
            while True:
                note("RUNNING", "on " + ", ".join(host.name for host in seen.able))
                end = self._run(launch, number, run, seen, signals, restarts.environment)
                if not restarts.are_left(end):
                    return end
                try:
                    seen = self._those_left(launch, run, restarts, signals, patience)
                except LaunchError as error:
                    say(f"{end.told}; {error}")
                    return end
                if signals:
                    return End(
                        ExitStatus.STOPPED, f"stopped by {signals[0].name} before it was started again"
                    )
                restarts.tell(f" on {', '.join(host.name for host in seen.able)}")

    def _those_left(
        self,
        launch: Launch,
        run: Run,
        restarts: Restarts,
        signals: Sequence[signal.Signals],
        patience_seconds: float,
    ) -> Look:
        """Return the hosts of the next attempt: all, or as many processes of those that answer as fit.

        Raises LaunchError where these are too few.
        """
        until = time.monotonic() + patience_seconds
        hosts = self._at_work(run)
        seen = look(self._config, self._python, launch, run, hosts)
        while seen.is_busy and not signals and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            seen = look(self._config, self._python, launch, run, hosts)
        fewest, at = self._config.min_ranks, restarts.culprit
        others = [host for host in seen.able if host.name != at]
        if fewest is not None and len(others) < len(seen.able) and total(others) >= fewest:
            say(f"host {at} has ended two attempts in a row and is left out of the next")
            restarts.forgive()
            seen.able = others
        if total(seen.able) < total(hosts) and not signals:
            for fault in seen.faults:
                say(fault)
            seen.able = first_of(seen.able, most_that_fit(run, total(seen.able), fewest))
        return seen

    def _run(
        self,
        launch: Launch,
        number: int,
        run: Run,
        seen: Look,
        signals: list[signal.Signals],
        environment: Mapping[str, str],
    ) -> End:
        """Make one attempt on the hosts seen; return how it ended."""
        record = ExitRecord.of(run.folder)
        secret = {name: os.environ[name] for name in self._config.pass_env if name in os.environ}
        title = f"==> {run.name}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        first, several = seen.able[0], self.world_size(run.job) > 1
        meeting = {
            "NODES": str(len(seen.able)),
            "MASTER_ADDR": self._config.master_address or address_of(self._config, first),
            "MASTER_PORT": str(self._config.master_port or seen.port),
        }
        stations = []
        for rank, host in enumerate(seen.able):
            ends_of(launch.folder, host).unlink(missing_ok=True)
            places = {**meeting, "NODE_RANK": str(rank), "PROCESSES": str(host.slots)} if several else {}
            log = log_of(launch.folder, host)
            with log.open("a", encoding="utf-8") as file:
                file.write(title)
            order = {
                "script": str(launch.folder / script_name(number, run)),
                "environment": {
                    **secret,
                    **places,
                    **environment,
                    LAUNCH_VARIABLE: str(launch.folder),
                    ENDINGS: str(ends_of(launch.folder, host)),
                },
                "processes": host.slots if several else 1,
                "log": str(log),
                "answer_timeout": self._config.answer_timeout_seconds,
                "stop_timeout": self._config.stop_timeout_seconds,
            }
            line = ssh_line(self._config, host, self._python, "run")
            stations.append(Station(host, line, order, log, echo=rank == 0))
        ending = Crew(stations, self._config.answer_timeout_seconds, signals).work()
        return self._verdict(launch, run, seen.able, ending, record)

    def _verdict(
        self, launch: Launch, run: Run, hosts: Sequence[Host], ending: Ending, record: ExitRecord
    ) -> End:
        is_asked = bool(ending.received)
        if ending.lost:
            step = last_step(run.folder)
            at = "before its first step" if step is None else f"at step {step}"
            told = "; ".join(f"host {host.name} was lost {at} ({why})" for host, why in ending.lost)
            remedy = "the job was ended on all hosts, run the same command again to go on"
            return End(ExitStatus.WATCHDOG, told, remedy, ending.lost[0][0].name, is_asked)
        ends = [end for host in hosts for end in read_rank_ends(ends_of(launch.folder, host), host.name)]
        code = ending.failed[0][1] if ending.failed else 0
        end = end_of(record, code, ending.received, ends)
        if end.status == ExitStatus.DONE:
            return end
        host = ending.failed[0][0] if ending.failed else hosts[0]
        if not ending.received and host != hosts[0]:
            self._show_log(launch, host)
        by = first_end(ends)
        log = log_of(launch.folder, host)
        told = end.told or f"ended with status {end.status}, first on host {host.name}; all of it: {log}"
        return replace(end, told=told, culprit=by.host if by else host.name)

    def _show_log(self, launch: Launch, host: Host) -> None:
        """Show the end of the log of the host that failed first; the first host's has been on the screen."""
        lines = log_of(launch.folder, host).read_text(encoding="utf-8", errors="replace").splitlines()
        say(f"the last lines of {host.name}:")
        print("\n".join(lines[-TAIL_LINES:]), file=sys.stderr, flush=True)


def runs_of(launch: Launch) -> list[Run]:
    """Return all runs of the chain, in order."""
    return [run for task in launch.tasks for run in task.runs]


def script_name(number: int, run: Run) -> str:
    """Return the name of the script of the chain's run with this number."""
    return f"{number}-{run.job.program}.sh"


def log_of(folder: Path, host: Host) -> Path:
    """Return the file of what a host prints."""
    return folder / f"{host.name}.log"


def ends_of(folder: Path, host: Host) -> Path:
    """Return the file in which a host's agent tells how its ranks ended."""
    return folder / f".{host.name}.ends.json"


def total(hosts: Sequence[Host]) -> int:
    """Return how many processes the hosts take together."""
    return sum(host.slots for host in hosts)


def first_of(hosts: Sequence[Host], processes: int) -> list[Host]:
    """Return the first of the hosts, with so many processes in all."""
    chosen: list[Host] = []
    for host in hosts:
        if slots := min(host.slots, processes - total(chosen)):
            chosen.append(Host(host.name, slots))
    return chosen
