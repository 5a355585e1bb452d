"""The plan of a run: which samples each step takes, in stages of one row length, batch and mixture each.

A stage begins after a number of steps that the config states, so that the first sample of any step is a sum
over the stages before it: the plan is a function of the config alone, and a run's state is one integer.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import PositiveFloat, PositiveInt

from lumbre.config import Config

from .interleave import Interleave


class StageConfig(Config):
    """What changes after some steps, and holds from then on."""

    after_step: PositiveInt
    """How many steps are done before it."""
    seq_length: PositiveInt | None = None
    """Tokens a row."""
    weights: dict[str, PositiveFloat] | None = None
    """The sets of the mixture that take part, each with its weight; those that are not named do not."""
    global_batch_size: PositiveInt | None = None
    """Samples per optimizer step over all ranks."""
    micro_batch_size: PositiveInt | None = None
    """Samples per forward pass of one rank."""


@dataclass(frozen=True)
class Stage:
    """Steps that are alike."""

    after_step: int
    """Steps before it."""
    first_sample: int
    """Samples before it."""
    seq_length: int
    global_batch_size: int
    micro_batch_size: int
    weights: tuple[float, ...]
    """One for each set, 0 where it takes no part."""

    @property
    def interleave(self) -> Interleave:
        """Which set each sample comes from, counted from the stage's first."""
        return Interleave(self.weights)


@dataclass(frozen=True)
class StepSamples:
    """What one step takes."""

    first: int
    """Its first sample in the global stream."""
    global_batch_size: int
    micro_batch_size: int


class Plan:
    """All stages of a run; steps are counted from 0 here: step s is done when s steps were done before it."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._steps = [stage.after_step for stage in stages]
        self._samples = [stage.first_sample for stage in stages]

    @classmethod
    def of(
        cls,
        base: Stage,
        changes: Sequence[StageConfig] = (),
        sets: Sequence[str] = ("",),
    ) -> "Plan":
        """Return the plan that begins as `base` and changes as the config says; `sets` are the mixture's."""
        stages = [base]
        for change in changes:
            last = stages[-1]
            steps = change.after_step - last.after_step
            stages.append(
                Stage(
                    after_step=change.after_step,
                    first_sample=last.first_sample + steps * last.global_batch_size,
                    seq_length=change.seq_length or last.seq_length,
                    global_batch_size=change.global_batch_size or last.global_batch_size,
                    micro_batch_size=change.micro_batch_size or last.micro_batch_size,
                    weights=last.weights if change.weights is None else weights_of(change.weights, sets),
                )
            )
        return cls(stages)

    def stage_of_step(self, step: int) -> Stage:
        """Return the stage of the step before which `step` steps are done."""
        return self.stages[bisect_right(self._steps, step) - 1]

    def number_of(self, sample: int) -> int:
        """Return which stage a sample of the stream lies in."""
        return bisect_right(self._samples, sample) - 1

    def step(self, step: int) -> StepSamples:
        """Return what the step takes before which `step` steps are done."""
        stage = self.stage_of_step(step)
        first = stage.first_sample + (step - stage.after_step) * stage.global_batch_size
        return StepSamples(first, stage.global_batch_size, stage.micro_batch_size)

    def begun(self, steps: int) -> list[Stage]:
        """Return the stages of which some step lies in the first `steps`, the first in any case."""
        return [self.stages[0], *(stage for stage in self.stages[1:] if stage.after_step < steps)]


def weights_of(weights: Mapping[str, float], sets: Sequence[str]) -> tuple[float, ...]:
    """Return the weight of each set in order, 0 for those that are not named."""
    return tuple(float(weights.get(name, 0.0)) for name in sets)
