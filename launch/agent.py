"""What is run: a plain process, or torchrun's agent over the processes of one node."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from .base import Job

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


@dataclass(frozen=True)
class Command:
    """What is run: the arguments, and the variables added to the environment."""

    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the command quoted for a shell."""
        sets = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*sets, shlex.join(self.arguments)])


def agent(
    job: Job, processes: int | str, stop_timeout_seconds: int, rendezvous: Sequence[str]
) -> tuple[str, ...]:
    """Return what follows `python` in the agent of one node that starts `processes` ranks of the job.

    In a script the number may be a variable of the shell, to be quoted there.
    torchrun's agent passes on SIGTERM and SIGINT alone unless told otherwise, and kills after 30 s.
    """
    return (
        "-m",
        "lumbre.elastic",
        *rendezvous,
        f"--nproc-per-node={processes}",
        f"--signals-to-handle={SIGNALS}",
        f"--shutdown-timeout={stop_timeout_seconds}",
        *job.command,
    )


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
