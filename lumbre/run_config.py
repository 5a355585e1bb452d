"""The keys that every run has, whatever its program."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from lumbre.checkpoint import CheckpointConfig
from lumbre.config import Config
from lumbre.engine import AccelerateConfig, EngineConfig
from lumbre.errors import Problem
from lumbre.optim import LinearConfig, OptimizerConfig, ScheduleConfig
from lumbre.tracking import TrackerConfig
from lumbre.trainer import BatchConfig


@dataclass(frozen=True)
class Child:
    """A run of another program that a run will start: what its own config gets wrong is told before."""

    key: str
    """The key that asks for it."""
    program: str
    config: str
    overrides: tuple[str, ...]
    later: str
    """The key whose value is there only when it starts."""


class RunConfig(Config):
    """One run: who it is, how it trains, what it leaves behind."""

    name: str = Field(min_length=1)
    """The run's name, and its folder's below runs_folder."""
    runs_folder: str = "runs"
    """Where run folders are."""
    seed: int = Field(1, ge=0, lt=2**63)
    """Seeds the initial weights, the order of the data and its noise."""
    optimizer: OptimizerConfig
    """What updates the weights."""
    schedule: ScheduleConfig = LinearConfig()
    """How the learning rate moves."""
    train: BatchConfig
    """In which portions; the programs say how long."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When checkpoints are written."""
    engine: EngineConfig = AccelerateConfig()
    """What runs the step, on which layout."""
    tracking: list[TrackerConfig] = Field(default_factory=list)
    """Trackers beside the console and metrics.jsonl."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs_folder) / self.name

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """The global and the micro batch size."""
        return self.train.sizes(self.engine.group.count)

    def children(self) -> Iterator[Child]:
        """Yield the runs of other programs that this one will start."""
        yield from ()

    @property
    def groups_called(self) -> str:
        """What the groups of ranks that take samples of their own are called in an error."""
        return " / ".join(["processes", *(f"engine.{key}" for key in self.engine.sharing)])

    def batch_misfits(self) -> Iterator[Problem]:
        """Yield where the batch does not fit the groups of ranks; keys are `train`'s."""
        yield from self.train.misfits(self.engine.group.count, self.groups_called)

    def problems(self) -> Iterator[Problem]:
        """Report a batch that the processes cannot share, and a run folder that cannot be made."""
        for problem in self.batch_misfits():
            yield replace(problem, key=f"train.{problem.key}")
        if self.engine.tensor_parallel > 1 and not self.optimizer.elementwise:
            fault = f"{self.optimizer.type} looks at whole matrices, and ranks have parts of them"
            yield Problem("engine.tensor_parallel", fault, "use 1, or optimizer.type=adamw")
        if self.name in (".", "..") or "/" in self.name or "\0" in self.name or "\n" in self.name:
            yield Problem(
                "name", f"{self.name!r} cannot be a folder's name", "use letters, digits and dashes"
            )
            return
        place = next(one for one in (self.folder, *self.folder.parents) if one.exists())
        fault = ""
        if not os.access(place, os.W_OK | os.X_OK):
            read_only = os.statvfs(place).f_flag & os.ST_RDONLY
            fault = "the disk is read-only" if read_only else "no permission to write there"
        if not place.is_dir():
            fault = "a file stands where a folder is needed"
        if fault:
            yield Problem(
                "runs_folder", f"{place}: {fault}", "set runs_folder to a folder that can be written"
            )
