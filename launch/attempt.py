"""One attempt at a run on this machine: started, sent the signals that come, ended as its ranks recorded."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lumbre.errors import ExitStatus, LaunchError
from lumbre.world import ENDINGS, die_with_parent

from .agent import Command
from .leftovers import MARK, clear
from .outcome import ExitRecord, Outcome, last_step, say
from .rank_ends import RankEnd, first_end, read_rank_ends
from .signals import Relay, relayed_signals

LEFT_SECONDS = 30.0
AS_RETRYABLE = "--as-retryable"
RETRYABLE = 128


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    status: int
    told: str = ""
    """The first cause in words; "" where the processes have said all there is to say."""
    remedy: str = ""
    """What to do where the run is not started again by itself."""
    culprit: int | str | None = None
    """The local rank, or the host, that ended first."""
    is_asked: bool = False
    """Whether the launcher had been asked to stop."""

    def say(self) -> None:
        """Tell the user on stderr, where there is something to tell."""
        say("; ".join(part for part in (self.told, self.remedy) if part))

    @property
    def is_death(self) -> bool:
        """Whether the run could do more if it were started again: it was killed, has crashed or hung."""
        as_meant = (ExitStatus.DONE, ExitStatus.USER_ERROR, ExitStatus.STOPPED)
        return not self.is_asked and self.status not in as_meant


def attempt(command: Command, folder: Path, relay: Relay, patience_seconds: float = LEFT_SECONDS) -> End:
    """Run the command to its end, and what it leaves behind; return how that came.

    Ranks whose agent is killed save and end by themselves; they have `patience_seconds` for it, and others
    that are left a few. Raises LaunchError when it cannot be started.
    """
    record = ExitRecord.of(folder)
    mark = f"{os.getpid()}-{time.time_ns()}"
    with tempfile.TemporaryDirectory(prefix="lumbre-") as place:
        file = Path(place) / "endings.json"
        try:
            # A group of its own: Ctrl-C reaches the launcher alone, which passes it on once.
            child = subprocess.Popen(
                command.arguments,
                env={**os.environ, **command.environment, ENDINGS: str(file), MARK: mark},
                process_group=0,
                preexec_fn=die_with_parent,  # noqa: PLW1509 (the launcher has one thread)
            )
        except OSError as error:
            raise LaunchError(f"{command.arguments[0]}: cannot be started: {error.strerror}") from error
        with relay.to_process(child) as received:
            code = child.wait()
            if code < 0 and not received:
                clear(mark, patience_seconds)
                return End(128 - code, f"the job was killed by {signal.Signals(-code).name}")
            clear(mark, LEFT_SECONDS)
        return end_of(record, code, received, read_rank_ends(file))


def end_of(
    record: ExitRecord, code: int, received: Sequence[signal.Signals], ends: Sequence[RankEnd] = ()
) -> End:
    """Return how an attempt ended: as its ranks recorded, as their agent saw it, or as its process did."""
    outcome, first, is_asked = record.outcome(), first_end(ends), bool(received)
    speaks_last = outcome is not None and outcome.status in (ExitStatus.DONE, ExitStatus.WATCHDOG)
    if first and first.signal_name and not speaks_last:
        # What other ranks recorded followed from it.
        step = last_step(record.file.parent)
        told = first.told if step is None else f"{first.told} at step {step}"
        return End(128 - first.status, told, "", first.local_rank, is_asked)
    if outcome:
        told = "" if outcome.status == ExitStatus.DONE else outcome.told
        return End(outcome.status, told, "", _local_rank(outcome, ends), is_asked)
    if received and code not in (0, -signal.SIGKILL, 128 + signal.SIGKILL):
        told = f"stopped by {received[0].name} before there was anything to save"
        return End(ExitStatus.STOPPED, told, "run the same command again", is_asked=True)
    if code == ExitStatus.BUG and first and first.status > 0:
        # The agent's own status, whatever that of its ranks was.
        return End(first.status, "", "", first.local_rank, is_asked)
    return End(code if code >= 0 else 128 - code, is_asked=is_asked)


def _local_rank(outcome: Outcome, ends: Sequence[RankEnd]) -> int | None:
    return next((end.local_rank for end in ends if end.rank == outcome.rank), outcome.rank)


def attempt_here(argv: Sequence[str]) -> int:
    """`lumbre launch attempt [--as-retryable] RUN_FOLDER COMMAND ...`: what a pod runs.

    It ends as the run recorded, and not with torchrun's 1, so that what restarts pods can tell. With
    --as-retryable 128 is added to the statuses that ask to be run again.
    """
    words = list(argv)
    as_retryable = words[:1] == [AS_RETRYABLE]
    folder, *command = words[as_retryable:]
    with relayed_signals() as relay:
        end = attempt(Command(tuple(command)), Path(folder), relay)
    end.say()
    ask_again = end.status in (ExitStatus.STOPPED, ExitStatus.WATCHDOG)
    return end.status + RETRYABLE if as_retryable and ask_again else end.status
