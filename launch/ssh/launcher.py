"""Jobs on plain hosts: this process stays with them, and ends all when one is lost."""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from lumbre.errors import ExitStatus, LaunchError, Problem

from ..base import Job, JobState, Launch, Record, Remember, Run
from ..outcome import ExitRecord, Outcome, last_step, say
from ..records import LAUNCHES, write_files
from . import foreground
from .config import SshConfig
from .connection import address_of, ask_all, ssh_line
from .crew import Crew, Ending, Station
from .hosts import Host
from .remote import LAUNCH_VARIABLE, version
from .script import script

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
        write_files(launch.folder, self.render(launch))
        runs = runs_of(launch)
        states = [JobState(run.name, "PENDING") for run in runs]
        status = int(ExitStatus.DONE)
        for number, run in enumerate(runs, 1):
            meeting = self._look(launch, run)

            def note(state: str, detail: str, at: int = number - 1) -> None:
                states[at] = JobState(states[at].name, state, detail)
                remember({**foreground.identity(), "runs": [asdict(one) for one in states]})

            note("RUNNING", "on " + ", ".join(host.name for host in self._at_work(run)))
            status, told = self._run(launch, number, run, meeting)
            note(foreground.STATES.get(status, "FAILED"), told)
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

    def _look(self, launch: Launch, run: Run) -> dict[str, str]:
        """See that all hosts see the folders of the run; return where its processes meet."""
        folders = [launch.folder, run.folder.parent]
        with markers(folders) as files:
            order = {"files": files, "launch": str(launch.folder)}
            replies = ask_all(self._config, self._at_work(run), self._python, order)
        faults = []
        for reply in replies:
            if reply.fault:
                faults.append(f"{reply.fault}; {reply.remedy}")
                continue
            for folder in (
                folder for folder, file in zip(folders, files, strict=True) if file in reply.found["unseen"]
            ):
                remedy = "set runs_folder to one that all hosts share under the same path"
                faults.append(f"{reply.host.name} does not see {folder} as it is here; {remedy}")
            if pids := reply.found["running"]:
                limit = f"it has {self._config.stop_timeout_seconds} s to save; try again when it has ended"
                faults.append(
                    f"{reply.host.name}: a job of this launch still runs there (process {pids[0]}); {limit}"
                )
        if faults:
            raise LaunchError("\n".join(faults))
        first = self._hosts[0]
        return {
            "MASTER_ADDR": self._config.master_address or address_of(self._config, first),
            "MASTER_PORT": str(self._config.master_port or replies[0].found["port"]),
        }

    def _run(self, launch: Launch, number: int, run: Run, meeting: dict[str, str]) -> tuple[int, str]:
        """Run one job to its end; return its status, and how it ended in words."""
        record = ExitRecord.of(run.folder)
        secret = {name: os.environ[name] for name in self._config.pass_env if name in os.environ}
        title = f"==> {run.name}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        stations = []
        for rank, host in enumerate(self._at_work(run)):
            several = self.world_size(run.job) > 1
            places = {**meeting, "NODE_RANK": str(rank), "PROCESSES": str(host.slots)} if several else {}
            log = log_of(launch.folder, host)
            with log.open("a", encoding="utf-8") as file:
                file.write(title)
            order = {
                "script": str(launch.folder / script_name(number, run)),
                "environment": {**secret, **places, LAUNCH_VARIABLE: str(launch.folder)},
                "processes": host.slots if several else 1,
                "log": str(log),
                "answer_timeout": self._config.answer_timeout_seconds,
                "stop_timeout": self._config.stop_timeout_seconds,
            }
            line = ssh_line(self._config, host, self._python, "run")
            stations.append(Station(host, line, order, log, echo=rank == 0))
        ending = Crew(stations, self._config.answer_timeout_seconds).work()
        return self._verdict(launch, run, ending, record.outcome())

    def _verdict(self, launch: Launch, run: Run, ending: Ending, outcome: Outcome | None) -> tuple[int, str]:
        if ending.lost:
            step = last_step(run.folder)
            at = "before its first step" if step is None else f"at step {step}"
            told = "; ".join(f"host {host.name} was lost {at} ({why})" for host, why in ending.lost)
            say(f"{told}. The job was ended on all hosts; run the same command again to go on")
            return ExitStatus.WATCHDOG, told
        if outcome:
            if outcome.status != ExitStatus.DONE:
                self._show_log(launch, ending)
                say(outcome.told)
            return outcome.status, outcome.told
        if not ending.failed:
            return ExitStatus.DONE, "done"
        if ending.received:
            told = f"stopped by {ending.received[0].name} before there was anything to save"
            say(f"{told}; run the same command again")
            return ExitStatus.STOPPED, told
        host, status = ending.failed[0]
        self._show_log(launch, ending)
        told = (
            f"ended with status {status}, first on host {host.name}; all of it: {log_of(launch.folder, host)}"
        )
        say(told)
        return status, told

    def _show_log(self, launch: Launch, ending: Ending) -> None:
        """Show the end of the log of the host that failed first; the first host's has been on the screen."""
        if ending.received or not ending.failed or (host := ending.failed[0][0]) == self._hosts[0]:
            return
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


@contextmanager
def markers(folders: Sequence[Path]) -> Iterator[list[str]]:
    """Put a new file in each folder while the context lasts, for the hosts to look for.

    Raises LaunchError where a folder takes none.
    """
    with ExitStack() as stack:
        files = []
        for folder in folders:
            file = folder / f".seen-{secrets.token_hex(8)}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file.touch()
            except OSError as error:
                raise LaunchError(f"{folder}: cannot be written: {error.strerror}") from error
            stack.callback(file.unlink, missing_ok=True)
            files.append(str(file))
        yield files
