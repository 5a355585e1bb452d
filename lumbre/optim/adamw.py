"""AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from lumbre.optim.base import NOT_FUSED, Fused, OptimizerConfig
from lumbre.optim.pieces import with_gradient


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
        return FusedAdamW(
            self.param_groups(parameters),
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            fused=True,
        )


class FusedAdamW(torch.optim.AdamW):
    """torch's AdamW, its kernel called at once."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; torch's own step makes the state before the first."""
        groups = [with_gradient(group) for group in self.param_groups]
        if not all(self.state.get(one) for parameters, _ in groups for one in parameters):
            super().step()
            return
        for group, (parameters, gradients) in zip(self.param_groups, groups, strict=True):
            states = [self.state[one] for one in parameters]
            fused_adamw(parameters, gradients, states, group, group["betas"], group["eps"])


def fused_adamw(
    parameters: list[torch.Tensor],
    gradients: list[torch.Tensor],
    states: Sequence[Mapping[str, Any]],
    group: Mapping[str, Any],
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """Update parameters of one group, dtype and device, and their states, by torch's fused kernel.

    torch.optim's own function sorts them by dtype and device first, which of small ones takes longer.
    """
    if not parameters:
        return
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    torch._fused_adamw_(
        parameters,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=group["weight_decay"],
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )
