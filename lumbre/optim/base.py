"""What an optimizer config promises, and which parameters decay."""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn

from lumbre.config import Choice


class OptimizerConfig(Choice):
    """Which optimizer updates the weights."""

    state_names: ClassVar[tuple[str, ...]] = ()
    """The optimizer's tensors per parameter, each of the parameter's shape: what a checkpoint carries."""

    learning_rate: PositiveFloat
    """Peak learning rate; the schedule multiplies it by a factor of at most 1."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled decay of matrices and embeddings; vectors (biases, norms) never decay."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off."""

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        """Return the torch optimizer over named parameters."""
        raise NotImplementedError

    def initial_state(self, parameter: torch.Tensor, step: int) -> dict[str, Any]:
        """Return the state that `parameter` has before its first step, with the step counter at `step`."""
        raise NotImplementedError

    def param_groups(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Split parameters into those that decay (two or more dimensions) and those that do not."""
        decay: list[nn.Parameter] = []
        keep: list[nn.Parameter] = []
        for _, parameter in parameters:
            if parameter.requires_grad:
                (decay if parameter.ndim >= 2 else keep).append(parameter)
        groups = [{"params": decay, "weight_decay": self.weight_decay}, {"params": keep, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]
