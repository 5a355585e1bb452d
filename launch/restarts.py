"""Runs that are started again after a rank dies, from their last checkpoint."""

from collections.abc import Iterator

from pydantic import NonNegativeInt, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem
from lumbre.world import Restart

from .attempt import End
from .base import Run
from .outcome import last_checkpoint, last_step, say


class RestartConfig(Config):
    """How often a run is started again, and with what."""

    restarts: NonNegativeInt = 0
    """How often a run whose rank is killed, crashes or hangs is started again, from its last checkpoint.

    What would repeat or is meant is not: a user's error (2), a stop (75), the end of the run (0)."""
    restarts_without_progress: PositiveInt = 3
    """After so many attempts in a row that end no later than one before did, no more is made."""
    min_ranks: PositiveInt | None = None
    """Go on with as few training processes as this where one keeps dying; absent: with all or not at all.

    The global batch stays the same: the largest number of processes is taken that divides it."""

    def fewest(self, world_size: int) -> Iterator[Problem]:
        """Report a min_ranks that a job of so many processes cannot have."""
        if self.min_ranks is not None and self.min_ranks > world_size:
            fault = f"{self.min_ranks} is more than the {world_size} processes that the job starts with"
            yield Problem("min_ranks", fault, f"set it to at most {world_size}")


class Restarts:
    """The attempts at one run: whether there is to be another, and what is told of it."""

    def __init__(self, config: RestartConfig, run: Run, patience_seconds: float) -> None:
        self._config = config
        self._run = run
        self._patience_seconds = patience_seconds
        self._reached = last_step(run.folder) or 0
        self._futile: list[End] = []
        self._done = 0
        self._cause = ""

    @property
    def environment(self) -> dict[str, str]:
        """What the next attempt is told of the one before; nothing before the first."""
        return Restart(self._cause, self._patience_seconds).environment() if self._done else {}

    @property
    def culprit(self) -> int | str | None:
        """Who has ended two attempts in a row without any progress; None where that is nobody."""
        if len(self._futile) < 2:
            return None
        last, before = self._futile[-1].culprit, self._futile[-2].culprit
        return last if last == before else None

    def are_left(self, end: End, *, tell: bool = True) -> bool:
        """Note how an attempt ended; return whether another is to be made, or say why not.

        Without `tell` the end of a run that is not to be started again has been told on the screen.
        """
        reached = last_step(self._run.folder) or 0
        self._futile = [] if reached > self._reached else [*self._futile, end]
        self._reached = max(self._reached, reached)
        if not end.is_death or not self._config.restarts or not self._run.job.is_training:
            if tell:
                end.say()
            return False
        told = end.told or f"ended with status {end.status}"
        if self._done == self._config.restarts:
            say(f"{told}; all restarts are used up ({self._done}): run the same command again to go on")
            return False
        if len(self._futile) >= self._config.restarts_without_progress:
            say(
                f"{told}; {len(self._futile)} attempts in a row have not come past step {self._reached}, so "
                "that another hardly would (restarts_without_progress): the cause stands above"
            )
            return False
        self._done += 1
        self._cause = f"restart {self._done} of {self._config.restarts}: {told}"
        return True

    def tell(self, ranks: str = "") -> None:
        """Say that the next attempt begins, and from where."""
        step = last_checkpoint(self._run.folder)
        start = "from the beginning, for there is no checkpoint yet" if step is None else f"from step {step}"
        _, _, told = self._cause.partition(": ")
        say(f"{told}; restart {self._done} of {self._config.restarts}{ranks} {start}")

    def forgive(self) -> None:
        """Begin to count anew, for the culprit has been left out."""
        self._futile = []
