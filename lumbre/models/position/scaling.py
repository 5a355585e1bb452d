"""Stretched rotary positions: slower turns, so that a model reaches beyond the length it was trained at.

Shapes: C frequencies.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from lumbre.config import Choice
from lumbre.errors import Problem


class RotaryScaling(Choice):
    """What is done to the frequencies of rotary positions."""

    @property
    def magnitude(self) -> float:
        """What turned queries and keys are multiplied by."""
        return 1.0

    def scale(self, frequency_C: Tensor, theta: float) -> Tensor:
        """Return the scaled frequencies; theta is the base that these were made with."""
        raise NotImplementedError


class NoScaling(RotaryScaling):
    """Frequencies as they are."""

    type: Literal["none"] = "none"

    def scale(self, frequency_C: Tensor, theta: float) -> Tensor:
        """Return them."""
        return frequency_C


class LinearScaling(RotaryScaling):
    """Positions squeezed into the trained length (Chen et al., 2023, arXiv:2306.15595)."""

    type: Literal["linear"] = "linear"
    factor: float = Field(ge=1)
    """How many times longer the reach becomes."""

    def scale(self, frequency_C: Tensor, theta: float) -> Tensor:
        """Divide all by the factor."""
        return frequency_C / self.factor


class Llama3Scaling(RotaryScaling):
    """Long waves squeezed, short ones kept, a blend between (Llama 3.1's code; arXiv:2407.21783, 3.4.2)."""

    type: Literal["llama3"] = "llama3"
    factor: float = Field(ge=1)
    """How many times longer the reach becomes."""
    low_freq_factor: PositiveFloat = 1.0
    """Waves that fit fewer times into original_max_length are squeezed by the whole factor."""
    high_freq_factor: PositiveFloat = 4.0
    """Waves that fit more times into original_max_length are kept."""
    original_max_length: PositiveInt
    """The length in tokens that the model was trained at before it was stretched."""

    def problems(self) -> Iterator[Problem]:
        """Yield factors in the wrong order."""
        low, high = self.low_freq_factor, self.high_freq_factor
        if high <= low:
            fault = f"{high:g} is not above low_freq_factor {low:g}"
            yield Problem("high_freq_factor", fault, "Llama 3.1 has 1 and 4")

    def scale(self, frequency_C: Tensor, theta: float) -> Tensor:
        """Blend by how many times a wave fits into the original length."""
        fits_C = self.original_max_length * frequency_C / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept_C = ((fits_C - low) / (high - low)).clamp(0, 1)
        return (1 - kept_C) * frequency_C / self.factor + kept_C * frequency_C


class YarnScaling(RotaryScaling):
    """As llama3 with a blend linear in the index of the wave, and sharper attention (arXiv:2309.00071)."""

    type: Literal["yarn"] = "yarn"
    factor: float = Field(ge=1)
    """How many times longer the reach becomes."""
    original_max_length: PositiveInt
    """The length in tokens that the model was trained at before it was stretched."""
    beta_fast: PositiveFloat = 32.0
    """Waves that turn more often within original_max_length are kept."""
    beta_slow: PositiveFloat = 1.0
    """Waves that turn less often within original_max_length are squeezed by the whole factor."""
    attention_factor: PositiveFloat | None = None
    """What turned queries and keys are multiplied by; left out, 0.1 ln(factor) + 1."""

    @property
    def magnitude(self) -> float:
        """The attention factor, or the paper's (3.4)."""
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0

    def problems(self) -> Iterator[Problem]:
        """Yield turns in the wrong order."""
        if self.beta_fast <= self.beta_slow:
            fault = f"{self.beta_fast:g} is not above beta_slow {self.beta_slow:g}"
            yield Problem("beta_fast", fault, "the paper has 32 and 1")

    def scale(self, frequency_C: Tensor, theta: float) -> Tensor:
        """Blend along a ramp between the two waves that turn beta_fast and beta_slow times (3.2)."""
        C = len(frequency_C)

        def index(turns: float) -> float:
            return C * math.log(self.original_max_length / (turns * 2 * math.pi)) / math.log(theta)

        # The authors' code bounds the index of a pair by the head size; Hugging Face's models do the same.
        first = max(math.floor(index(self.beta_fast)), 0)
        last = min(math.ceil(index(self.beta_slow)), 2 * C - 1)
        time_C = torch.arange(C, dtype=torch.float32, device=frequency_C.device)
        squeezed_C = ((time_C - first) / (last - first or 0.001)).clamp(0, 1)
        return squeezed_C * frequency_C / self.factor + (1 - squeezed_C) * frequency_C
