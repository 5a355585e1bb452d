"""When checkpoints are written, and which of them stay on disk."""

from collections.abc import Collection, Iterator
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from lumbre.config import Config
from lumbre.config.base import suggest
from lumbre.errors import Problem

LESS_IS_BETTER = ("loss", "perplexity")
"""Words in the name of a metric of which less is better."""


class BestConfig(Config):
    """Which checkpoints are the best."""

    metric: str = "loss"
    """A metric of the evaluations, as metrics.jsonl has it after eval/."""
    mode: Literal["min", "max"] | None = None
    """Whether less or more is better; left out, less for losses and perplexities, more for the rest."""
    count: PositiveInt = 1
    """How many of the best stay on disk."""

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        if self.mode is not None:
            return 1 if self.mode == "max" else -1
        return -1 if any(word in self.metric for word in LESS_IS_BETTER) else 1

    def problems(self) -> Iterator[Problem]:
        """Report a metric by its name in metrics.jsonl."""
        if self.metric.startswith("eval/"):
            yield Problem(
                "metric", "metrics are named as after eval/", f"write {self.metric.removeprefix('eval/')}"
            )


class CheckpointConfig(Config):
    """When checkpoints are written and how many are kept."""

    every_steps: PositiveInt | None = None
    """Steps between checkpoints; none: only at the end and when the run is stopped."""
    every_minutes: PositiveFloat | Literal["auto"] | None = None
    """Minutes between checkpoints; auto takes what loses the least time, from what a save is measured to cost
    and failures_per_day."""
    failures_per_day: PositiveFloat | None = None
    """Failures of the whole job that are to be expected; Llama 3's saw 7.8 a day on 16,000 GPUs."""
    background: bool = True
    """Whether training goes on while a checkpoint is hashed and written; it takes the memory of one copy of
    what each process saves (12 bytes for each of its parameters with AdamW), held for the whole run."""
    keep: PositiveInt = 2
    """How many of the latest checkpoints stay on disk."""
    keep_every: PositiveInt | None = None
    """Checkpoints of steps that are multiples of this stay for ever; none: they go as others do."""
    keep_best: BestConfig | None = None
    """The best checkpoints stay too, and an evaluation better than all before is followed by a save."""

    def problems(self) -> Iterator[Problem]:
        """Report a failure rate that is missing, or that nothing asks for."""
        if self.every_minutes == "auto" and self.failures_per_day is None:
            remedy = "add checkpoint.failures_per_day, as 1 for one failure a day of the whole job"
            yield Problem("every_minutes", "auto follows from how often the job fails", remedy)
        if self.every_minutes != "auto" and self.failures_per_day is not None:
            remedy = "set checkpoint.every_minutes=auto, or leave it out"
            yield Problem("failures_per_day", "nothing follows from it", remedy)
        if (
            self.keep_every is not None
            and self.every_minutes is None
            and self.every_steps is not None
            and self.keep_every % self.every_steps
        ):
            fault = f"{self.keep_every} is no multiple of every_steps={self.every_steps}"
            below = self.keep_every // self.every_steps * self.every_steps or self.every_steps
            yield Problem("keep_every", fault, f"use {below}, or another multiple")

    def unmeasured(self, metrics: Collection[str]) -> Iterator[Problem]:
        """Report that the best are told by a metric that is not among those of an evaluation."""
        best = self.keep_best
        if best is not None and best.metric not in metrics:
            fault = f"an evaluation has no {best.metric!r}"
            yield Problem("checkpoint.keep_best.metric", fault, suggest(best.metric, list(metrics)))
