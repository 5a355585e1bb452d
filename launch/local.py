"""Jobs on this machine: one plain process, or several under torchrun's agent."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from lumbre.errors import ExitStatus, LaunchError, Problem
from lumbre.world import die_with_parent

from .base import Command, Job, LauncherConfig, check, program_command
from .signals import forward_signals

SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)


class LocalConfig(LauncherConfig):
    """Start jobs on this machine."""

    type: Literal["local"] = "local"
    processes: PositiveInt = 1
    """Processes of a training run: one for each GPU, or a few that share the CPU's cores."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process (OMP_NUM_THREADS); the cores are shared out evenly when absent."""
    stop_timeout_seconds: PositiveInt = 3600
    """How long a job may take to save after a signal before what is left of it is killed."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the job, added to those of the shell."""

    def problems(self) -> Iterator[Problem]:
        for name in self.env:
            if SECRET.search(name):
                remedy = f"export {name} in your shell instead, the job inherits it"
                yield Problem(f"env.{name}", "looks like a secret, which does not belong in a file", remedy)

    def build(self) -> "LocalLauncher":
        """Return the launcher for this machine."""
        return LocalLauncher(self, cores())


class LocalLauncher:
    """Runs a job to its end and returns how it ended."""

    def __init__(self, config: LocalConfig, cores: int) -> None:
        self._config = config
        self._cores = cores

    def processes(self, job: Job) -> int:
        """Return how many processes the job gets."""
        return self._config.processes if job.is_training else 1

    def command(self, job: Job) -> Command:
        """Return what starts the job.

        torchrun's agent passes on SIGTERM and SIGINT alone unless told otherwise, and kills after 30 s.
        """
        count = self.processes(job)
        threads = self._config.threads_per_process or max(1, self._cores // count)
        environment = {"OMP_NUM_THREADS": str(threads), **self._config.env}
        if count == 1:
            return Command((sys.executable, *program_command(job)), environment)
        agent = (
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={count}",
            "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
            f"--shutdown-timeout={self._config.stop_timeout_seconds}",
        )
        return Command((sys.executable, *agent, *program_command(job)), environment)

    def render(self, job: Job) -> str:
        """Return the shell command that starts the job."""
        return str(self.command(job))

    def run(self, job: Job) -> int:
        """Check the job, run it to its end, and return the exit status that its ranks recorded.

        SIGINT, SIGTERM, SIGHUP and SIGUSR1 are passed on, so that the job saves and ends with 75.
        Raises CheckError or LaunchError when it cannot start.
        """
        resolved = check(job, self.processes(job))
        record = _record_file(resolved) if job.is_training else None
        before = _stamp(record)
        command = self.command(job)
        try:
            # A group of its own: Ctrl-C reaches the launcher alone, which passes it on once.
            child = subprocess.Popen(
                command.arguments,
                env={**os.environ, **command.environment},
                process_group=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509 (the launcher has one thread)
            )
        except OSError as error:
            raise LaunchError(f"{command.arguments[0]}: cannot be started: {error.strerror}") from error
        with forward_signals(child) as received:
            code = child.wait()
        if record is not None and _stamp(record) not in (None, before) and (told := _read(record)):
            return self._told(job, told)
        if received and code not in (0, -signal.SIGKILL):
            say(
                f"stopped by {received[0].name} before there was anything to save; run the same command again"
            )
            return ExitStatus.STOPPED
        return code if code >= 0 else 128 - code

    def _told(self, job: Job, record: dict[str, Any]) -> int:
        """Repeat the first cause below the agent's own long account of how its processes ended."""
        status = int(record["status"])
        step = "" if record.get("step") is None else f" at step {record['step']}"
        if self.processes(job) == 1 or status == ExitStatus.DONE:
            return status
        if status == ExitStatus.STOPPED:
            say(f"stopped{step}; run the same command again to go on")
        else:
            rank, reason = record.get("rank"), record.get("reason")
            say(f"ended with status {status}{step}, first on rank {rank}: {reason}")
        return status


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(text: str) -> None:
    """Tell the user on stderr."""
    print(f"launch: {text}", file=sys.stderr, flush=True)


def _record_file(resolved: dict[str, Any]) -> Path | None:
    if not {"runs_folder", "name"} <= resolved.keys():
        return None
    return Path(str(resolved["runs_folder"])) / str(resolved["name"]) / "exit.json"


def _stamp(file: Path | None) -> tuple[int, int] | None:
    try:
        status = file.stat() if file is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino) if status is not None else None


def _read(record: Path) -> dict[str, Any]:
    """Return exit.json, or nothing where a kill tore it."""
    try:
        found: dict[str, Any] = json.loads(record.read_bytes())
    except ValueError:
        return {}
    return found
