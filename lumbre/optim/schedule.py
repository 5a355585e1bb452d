"""Learning-rate schedules: the factor on the peak rate as a function of the step alone."""

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from lumbre.config import Choice
from lumbre.errors import Problem


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


class InverseSquareRootConfig(ScheduleConfig):
    """Fall with the root of the steps done (Vaswani et al., 2017, section 5.3; T5, arXiv:1910.10683)."""

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    """The schedule's name."""
    final_factor: float = Field(0.0, ge=0, le=1)
    """The least rate, as a share of the peak: after w steps of warm-up the rate of step s is sqrt(w / s)."""

    def factor(self, step: int, steps: int) -> float:
        """Return min(step / w, sqrt(w / step)) for a warm-up of w steps; one step, where there is none."""
        warmup_steps = self.warmup * steps
        if step < warmup_steps:
            return step / warmup_steps
        return max(self.final_factor, min(1.0, math.sqrt(max(1.0, warmup_steps) / step)))


class WsdConfig(ScheduleConfig):
    """Warm up, stay, decay at the end (WSD; Hu et al., 2024, arXiv:2404.06395)."""

    type: Literal["wsd"] = "wsd"
    """The schedule's name."""
    warmup: float = Field(0.01, ge=0, le=1)
    """Share of train.steps over which the rate rises linearly from 0."""
    decay: float = Field(0.1, gt=0, le=1)
    """Share of train.steps, at the end, over which it falls."""
    decay_shape: Literal["linear", "one_minus_sqrt"] = "one_minus_sqrt"
    """How it falls; 1 - sqrt did best in Hägele et al. (2024, arXiv:2405.18392)."""

    def problems(self) -> Iterator[Problem]:
        """Report a warm-up that the decay runs into."""
        if self.warmup + self.decay > 1:
            fault = f"{self.decay:g} and a warm-up of {self.warmup:g} are more than the whole run"
            yield Problem("decay", fault, f"use at most {1 - self.warmup:g}, or a shorter warmup")

    def shape(self, progress: float) -> float:
        """Return 1 up to the decay, then 1 - p or 1 - sqrt(p) at share p of the decay."""
        after_warmup = 1.0 - self.warmup
        stable = max(0.0, after_warmup - self.decay)
        gone = max(0.0, (progress * after_warmup - stable) / (after_warmup - stable)) if after_warmup else 0.0
        return 1.0 - (gone if self.decay_shape == "linear" else math.sqrt(gone))
