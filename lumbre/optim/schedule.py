"""Learning-rate schedules: the factor on the peak rate as a function of the step alone."""

import math
from typing import Literal

from pydantic import Field

from lumbre.config import Choice


class ScheduleConfig(Choice):
    """How the learning rate moves over training: a linear warm-up, then the shape that `type` names."""

    warmup: float = Field(0.1, ge=0, le=1)
    """Share of train.steps over which the rate rises linearly from 0."""
    final_factor: float = Field(0.0, ge=0, le=1)
    """The rate at the last step, as a share of the peak."""

    def factor(self, step: int, steps: int) -> float:
        """Return the factor for the 1-based `step` of `steps`; 1 at the end of the warm-up."""
        warmup_steps = self.warmup * steps
        if step < warmup_steps:
            return step / warmup_steps
        rest = steps - warmup_steps
        progress = min(1.0, (step - warmup_steps) / rest) if rest > 0 else 0.0
        return self.final_factor + (1.0 - self.final_factor) * self.shape(progress)

    def shape(self, progress: float) -> float:
        """Return the decay after the warm-up, from 1 at progress 0; progress is in [0, 1]."""
        raise NotImplementedError


class ConstantConfig(ScheduleConfig):
    """Stay at the peak."""

    type: Literal["constant"] = "constant"
    """The schedule's name."""

    def shape(self, progress: float) -> float:
        """Return 1."""
        return 1.0


class LinearConfig(ScheduleConfig):
    """Fall in a straight line, as BERT does (Devlin et al., 2019, appendix A.2)."""

    type: Literal["linear"] = "linear"
    """The schedule's name."""

    def shape(self, progress: float) -> float:
        """Return 1 - progress."""
        return 1.0 - progress


class CosineConfig(ScheduleConfig):
    """Fall along half a cosine (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""

    type: Literal["cosine"] = "cosine"
    """The schedule's name."""

    def shape(self, progress: float) -> float:
        """Return (1 + cos(pi progress)) / 2."""
        return 0.5 * (1.0 + math.cos(math.pi * progress))
