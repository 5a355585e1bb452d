"""One attempt at a run on this machine: started, sent the signals that come, ended as its ranks recorded."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lumbre.errors import ExitStatus, LaunchError
from lumbre.world import die_with_parent

from .agent import Command
from .outcome import ExitRecord, say
from .signals import forward_signals

AS_RETRYABLE = "--as-retryable"
RETRYABLE = 128


def attempt(command: Command, folder: Path, *, tell: bool) -> int:
    """Run the command to its end and return its status; `tell` says the first cause on stderr.

    Raises LaunchError when it cannot be started.
    """
    record = ExitRecord.of(folder)
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
    return status_of(record, code, received, tell=tell)


def status_of(record: ExitRecord, code: int, received: Sequence[signal.Signals], *, tell: bool) -> int:
    """Return the status that the ranks recorded; where they recorded none, what the process ended with."""
    if outcome := record.outcome():
        # The first cause, below the agent's own long account of how its processes ended.
        if tell and outcome.status != ExitStatus.DONE:
            say(outcome.told)
        return outcome.status
    if received and code not in (0, -signal.SIGKILL, 128 + signal.SIGKILL):
        say(f"stopped by {received[0].name} before there was anything to save; run the same command again")
        return ExitStatus.STOPPED
    return code if code >= 0 else 128 - code


def attempt_here(argv: Sequence[str]) -> int:
    """`lumbre launch attempt [--as-retryable] RUN_FOLDER COMMAND ...`: what a pod runs.

    It ends as the run recorded, and not with torchrun's 1, so that what restarts pods can tell. With
    --as-retryable 128 is added to the statuses that ask to be run again.
    """
    words = list(argv)
    as_retryable = words[:1] == [AS_RETRYABLE]
    folder, *command = words[as_retryable:]
    status = attempt(Command(tuple(command)), Path(folder), tell=True)
    ask_again = status in (ExitStatus.STOPPED, ExitStatus.WATCHDOG)
    return status + RETRYABLE if as_retryable and ask_again else status
