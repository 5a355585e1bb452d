"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from lumbre.optim.base import NOT_FUSED, Fused, OptimizerConfig


class AdamWConfig(OptimizerConfig):
    """torch's AdamW, its fused kernel where the device has one."""

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    elementwise: ClassVar[bool] = True

    type: Literal["adamw"] = "adamw"
    """The optimizer's name."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the running mean of gradients."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """Decay of the running mean of squared gradients."""
    epsilon: PositiveFloat = 1e-8
    """Added to the denominator."""

    def build(
        self, parameters: Iterable[tuple[str, nn.Parameter]], fused: Fused = NOT_FUSED
    ) -> torch.optim.AdamW:
        """Return torch.optim.AdamW with decay on matrices only."""
        return torch.optim.AdamW(
            self.param_groups(parameters),
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            fused=True,
        )
