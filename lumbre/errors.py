"""Every error that a user can cause, as one tree, and the exit status that each way to end has.

LumbreError
├── UserError               exit 2, explained without a traceback
│   ├── ConfigError         a key, a value, or two values that do not fit
│   ├── DataError           a corpus, shard or prepared folder that cannot be used
│   ├── TokenizerError      a tokenizer that cannot be trained, loaded, or does not match the data
│   ├── CheckpointError     a checkpoint that is damaged or belongs to another run
│   ├── ModelError          weights or a model folder that do not fit the model
│   ├── TrainingError       a run that can no longer learn: its gradient is not finite
│   ├── RunFolderError      a run folder that is locked, read-only or full
│   └── LaunchError         a job that cannot be submitted or started
├── LayoutError             what was set up is not what was asked for (world size, engine)
└── RendezvousError         exit 76, ranks that did not come to the start
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitStatus(IntEnum):
    """How a program ends; scripts and launchers rely on these numbers."""

    DONE = 0
    BUG = 1
    USER_ERROR = 2
    STOPPED = 75
    """Stopped on a signal after saving: run the same command again."""
    WATCHDOG = 76
    """Ended by the watchdog: restart."""


class LumbreError(Exception):
    """The root of the tree."""

    exit_status = ExitStatus.BUG


class UserError(LumbreError):
    """What the user can mend; the message names place, fault and remedy."""

    exit_status = ExitStatus.USER_ERROR


@dataclass(frozen=True)
class Problem:
    """One fault in a config: where it stands, what is wrong, and what to do about it."""

    key: str
    """Dotted path of the key, "" for the whole file."""
    fault: str
    remedy: str = ""
    place: str = ""
    """File and line, or "command line"; filled in by `lumbre.config.load`."""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.place, self.key) if part)
        text = f"{where}: {self.fault}" if where else self.fault
        return f"{text}; {self.remedy}" if self.remedy else text


class ConfigError(UserError):
    """Every problem of a config at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(UserError):
    """A corpus, shard or prepared folder that cannot be used."""


class TokenizerError(UserError):
    """A tokenizer that cannot be trained or loaded, or that does not match the data."""


class CheckpointError(UserError):
    """A checkpoint that is damaged or belongs to another run."""


class ModelError(UserError):
    """Weights or a model folder that do not fit the model."""


class TrainingError(UserError):
    """A run that can no longer learn: its gradient is not finite."""


class RunFolderError(UserError):
    """A run folder that is locked by another job, read-only or on a full disk."""


class LaunchError(UserError):
    """A job that cannot be submitted or started."""


class LayoutError(LumbreError):
    """What was set up is not what was asked for: world size or engine."""


class RendezvousError(LumbreError):
    """Ranks that did not come to the start; `rank` is the first of them."""

    exit_status = ExitStatus.WATCHDOG

    def __init__(self, message: str, *, rank: int) -> None:
        self.rank = rank
        super().__init__(message)
