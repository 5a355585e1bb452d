"""What an optimizer config promises, which parameters decay, and how fast each learns."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn

from lumbre.config import Choice
from lumbre.errors import ConfigError, Problem
from lumbre.optim.depth import distances, stacks

Fused = Mapping[str, Sequence[int]]
"""By the name of a map that is several maps in one product, the rows of each."""
NOT_FUSED: Fused = MappingProxyType({})


class OptimizerConfig(Choice):
    """Which optimizer updates the weights."""

    state_names: ClassVar[tuple[str, ...]] = ()
    """The optimizer's tensors per parameter, each of the parameter's shape: what a checkpoint carries.

    Where parameters differ in it, these are all; each group of parameters says its own in `states`.
    """

    elementwise: ClassVar[bool] = False
    """Whether each number is updated from its own gradient and state alone: a part of a matrix then learns as
    the whole does."""

    learning_rate: PositiveFloat
    """Peak learning rate; the schedule multiplies it by a factor of at most 1."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled decay of matrices and embeddings; vectors (biases, norms) never decay."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor on the rate from each block to the one below it; the head learns at the full rate."""

    def build(
        self, parameters: Iterable[tuple[str, nn.Parameter]], fused: Fused = NOT_FUSED
    ) -> torch.optim.Optimizer:
        """Return the torch optimizer over named parameters, of which `fused` are several maps each."""
        raise NotImplementedError

    def states(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the state of a parameter of such a name and shape."""
        return self.state_names

    def rate(self, states: Sequence[str]) -> float:
        """Return the peak rate of parameters that have such a state."""
        return self.learning_rate

    def initial_state(self, parameter: torch.Tensor, step: int, states: Sequence[str]) -> dict[str, Any]:
        """Return the state before the first step: tensors of zeros, and the step counter at `step`.

        The counter is where torch's fused kernels expect it.
        """
        counter = torch.full((), float(step), dtype=torch.float32, device=parameter.device)
        return {"step": counter, **{name: torch.zeros_like(parameter) for name in states}}

    def param_groups(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """Split what trains into groups of one decay and one rate, `lr_scale` times the schedule's.

        Tensors of two or more dimensions decay. The rate falls by layer_decay a block, from the whole rate
        above the last one (Bao et al., 2022, arXiv:2106.08254, as their code counts). Raises ConfigError
        where it would fall and no parameter is named after a block.
        """
        named = dict(parameters)
        if self.layer_decay < 1 and not stacks(named):
            fault = "the model's parameters are not named after blocks, as in layers.3."
            raise ConfigError([Problem("optimizer.layer_decay", fault, "leave it out")])
        below = distances(named) if self.layer_decay < 1 else dict.fromkeys(named, 0)
        groups: dict[tuple[int, bool, tuple[str, ...]], list[nn.Parameter]] = {}
        for name, parameter in named.items():
            if parameter.requires_grad:
                # What DeepSpeed has shared out is flat, and has its shape beside it.
                shape = getattr(parameter, "ds_shape", parameter.shape)
                key = below[name], len(shape) < 2, self.states(name, shape)
                groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": members,
                "weight_decay": 0.0 if is_vector else self.weight_decay,
                "lr_scale": self.layer_decay**distance * self.rate(states) / self.learning_rate,
                "is_vector": is_vector,
                "states": states,
            }
            for (distance, is_vector, states), members in sorted(groups.items(), key=lambda group: group[0])
        ]


def states_of(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, tuple[str, ...]]:
    """Return the names of each parameter's state."""
    return {parameter: group["states"] for group in optimizer.param_groups for parameter in group["params"]}


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Give each group of parameters the rate, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]
