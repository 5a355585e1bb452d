"""Lion: the sign of an interpolated momentum (Chen et al., 2023, arXiv:2302.06675)."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from lumbre.optim.base import NOT_FUSED, Fused, OptimizerConfig
from lumbre.optim.pieces import with_gradient


class LionConfig(OptimizerConfig):
    """Lion (algorithm 2): one state, and rates 3 to 10 times below AdamW's with as much more decay."""

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg",)
    elementwise: ClassVar[bool] = True

    type: Literal["lion"] = "lion"
    """The optimizer's name."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Weight of the running mean in the update."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the running mean of gradients."""

    def build(
        self, parameters: Iterable[tuple[str, nn.Parameter]], fused: Fused = NOT_FUSED
    ) -> torch.optim.Optimizer:
        """Return Lion with decay on matrices only."""
        return Lion(self, self.param_groups(parameters))


class Lion(torch.optim.Optimizer):
    """The optimizer that LionConfig describes."""

    def __init__(self, config: LionConfig, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": config.learning_rate})
        self.config = config

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters, gradients = with_gradient(group)
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] = self.config.initial_state(parameter, 0, group["states"])
            means = [self.state[parameter]["exp_avg"] for parameter in parameters]
            updates = list(torch._foreach_lerp(means, gradients, 1 - self.config.beta1))
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            torch._foreach_lerp_(means, gradients, 1 - self.config.beta2)
