"""LAMB: Adam whose step is measured by each tensor's own norm, for large batches (arXiv:1904.00962)."""

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from lumbre import watchdog
from lumbre.optim.base import NOT_FUSED, Fused, OptimizerConfig
from lumbre.optim.pieces import PiecewiseOptimizer, with_gradient


class LambConfig(OptimizerConfig):
    """LAMB (You et al., 2020, algorithm 2); vectors take Adam's step as it is, as in the authors' code."""

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")

    type: Literal["lamb"] = "lamb"
    """The optimizer's name."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the running mean of gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the running mean of squared gradients."""
    epsilon: PositiveFloat = 1e-6
    """Added to the denominator."""

    def build(
        self, parameters: Iterable[tuple[str, nn.Parameter]], fused: Fused = NOT_FUSED
    ) -> torch.optim.Optimizer:
        """Return LAMB; a tensor is a layer of the paper's, what is fused in it included."""
        named = dict(parameters)
        return Lamb(self, self.param_groups(named.items()), named)


class Lamb(PiecewiseOptimizer):
    """The optimizer that LambConfig describes."""

    config: LambConfig

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; every rank calls."""
        for group in self.param_groups:
            parameters, gradients = with_gradient(group)
            updates = [
                self._update(parameter, gradient, group["weight_decay"])
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]
            if parameters and not group["is_vector"]:
                self._adapt(parameters, updates)
            if parameters:
                torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, weight_decay: float) -> torch.Tensor:
        """Return Adam's step plus the decay, and take the gradient into the moments."""
        config = self.config
        state = self.state_of(parameter, config.state_names)
        state["step"] += 1
        count = state["step"].to(parameter.dtype)
        mean: torch.Tensor = state["exp_avg"]
        square: torch.Tensor = state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - config.beta1)
        square.mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
        root = (square / weight(config.beta2, count)).sqrt_().add_(config.epsilon)
        return (mean / weight(config.beta1, count)).div_(root).add_(parameter, alpha=weight_decay)

    def _adapt(self, parameters: Sequence[torch.Tensor], updates: Sequence[torch.Tensor]) -> None:
        """Multiply each tensor's update by the tensor's norm over the update's, 1 where either is 0."""
        names: dict[str, int] = {}
        places, olds, news = [], [], []
        device, is_shared = parameters[0].device, False
        for parameter, update in zip(parameters, updates, strict=True):
            shared = self.shared.get(parameter)
            if shared is None:
                places.append(names.setdefault(self.names[parameter], len(names)))
                olds.append(parameter)
                news.append(update)
                continue
            device, is_shared = shared.device, True
            for name in shared.names:
                names.setdefault(name, len(names))
            for one in shared.pieces:
                places.append(names[one.name])
                olds.append(parameter[one.offset : one.offset + one.numel])
                news.append(update[one.offset : one.offset + one.numel])
        squares_2N = torch.zeros(2, len(names), dtype=parameters[0].dtype, device=device)
        for row, tensors in enumerate((olds, news)):
            for place, tensor in zip(places, tensors, strict=True):
                squares_2N[row, place] = torch.linalg.vector_norm(tensor).square()
        if is_shared and torch.distributed.is_initialized():
            with watchdog.collective("sum of squares over ranks"):
                torch.distributed.all_reduce(squares_2N)
        old_N, new_N = squares_2N.sqrt()
        ratio_N = torch.where((old_N > 0) & (new_N > 0), old_N / new_N, torch.ones_like(old_N))
        for place, tensor in zip(places, news, strict=True):
            tensor.mul_(ratio_N[place].to(tensor.device))


def weight(beta: float, step: torch.Tensor) -> torch.Tensor:
    """Return 1 - beta^step, the weights of a running mean in sum, without cancellation."""
    return -torch.expm1(step * math.log(beta)) if beta else torch.ones_like(step)
