"""Muon: orthogonalized momentum for hidden matrices, AdamW for the rest (Jordan et al., 2024).

https://kellerjordan.github.io/posts/muon/; Moonlight (Liu et al., 2025, arXiv:2502.16982).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from lumbre.errors import ConfigError, Problem
from lumbre.optim.adamw import fused_adamw
from lumbre.optim.base import NOT_FUSED, Fused, OptimizerConfig
from lumbre.optim.depth import BLOCK
from lumbre.optim.newton_schulz import orthogonalize
from lumbre.optim.pieces import PiecewiseOptimizer, with_gradient

MOMENTUM = ("momentum_buffer",)
"""The state of hidden matrices."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""That of the rest."""
OTHER = re.compile(r"bias|norm|embed|(?:^|\.)(?:router|gate|shared_gate|lm_head)\.")
"""What a block has besides maps of hidden states: vectors, tables, routers of experts."""

UpdateScale = Literal["match_rms_adamw", "original"]


class MuonConfig(OptimizerConfig):
    """Muon for the matrices of blocks; AdamW for embeddings, heads, norms, biases and routers."""

    state_names: ClassVar[tuple[str, ...]] = (*MOMENTUM, *MOMENTS)

    type: Literal["muon"] = "muon"
    """The optimizer's name."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of the running mean of gradients that is orthogonalized."""
    nesterov: bool = True
    """Whether the mean is taken one gradient ahead."""
    newton_schulz_steps: PositiveInt = 5
    """Steps of the iteration that orthogonalizes."""
    newton_schulz_dtype: Literal["float32", "bfloat16"] = "float32"
    """What it is computed in. bfloat16 is the faster on a GPU, and rounding then shows from layout to
    layout."""
    update_scale: UpdateScale = "match_rms_adamw"
    """The size of a matrix' update, as torch.optim.Muon calls it: match_rms_adamw, 0.2 sqrt(max(rows,
    columns)), moves weights as far as AdamW does, whose rates serve (Moonlight, section 2.2); original,
    sqrt(max(1, rows / columns)), wants rates such as 0.02 (Jordan et al.)."""
    adamw_learning_rate: PositiveFloat | None = None
    """Peak rate of what AdamW updates; none: learning_rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the running mean of gradients."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the running mean of squared gradients."""
    epsilon: PositiveFloat = 1e-8
    """Added to AdamW's denominator."""

    def build(
        self, parameters: Iterable[tuple[str, nn.Parameter]], fused: Fused = NOT_FUSED
    ) -> torch.optim.Optimizer:
        """Return Muon; each map that is fused with others in one weight is orthogonalized by itself.

        Raises ConfigError where no parameter is a matrix of a block.
        """
        named = dict(parameters)
        groups = self.param_groups(named.items())
        if not any(group["states"] == MOMENTUM for group in groups):
            fault = "no parameter that trains is a matrix of a block, named as in layers.3."
            raise ConfigError([Problem("optimizer.type", fault, "use adamw")])
        return Muon(self, groups, named, fused)

    def states(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:
        """Return Muon's state for hidden matrices, AdamW's for others."""
        return MOMENTUM if is_hidden_matrix(name, shape) else MOMENTS

    def rate(self, states: Sequence[str]) -> float:
        """Return learning_rate for matrices, AdamW's own for others."""
        return self.learning_rate if states == MOMENTUM else self.adamw_learning_rate or self.learning_rate

    def scale(self, rows: int, columns: int) -> float:
        """Return the factor on a matrix' orthogonalized update."""
        if self.update_scale == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))


def is_hidden_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter maps hidden states to hidden states within a block: a matrix, or one per expert."""
    is_matrix = len(shape) in (2, 3) and min(shape[-2:]) > 1
    return is_matrix and bool(BLOCK.search(name)) and not OTHER.search(name)


class Muon(PiecewiseOptimizer):
    """The optimizer that MuonConfig describes; groups whose `states` are MOMENTUM are matrices."""

    config: MuonConfig

    def __init__(
        self,
        config: MuonConfig,
        groups: list[dict[str, Any]],
        named: Mapping[str, torch.Tensor],
        fused: Fused = NOT_FUSED,
    ) -> None:
        super().__init__(config, groups, named)
        self._fused = fused
        self._dtype: torch.dtype = getattr(torch, config.newton_schulz_dtype)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; every rank calls."""
        for group in self.param_groups:
            parameters, gradients = with_gradient(group)
            if parameters:
                update = self._muon if group["states"] == MOMENTUM else self._adamw
                update(group, parameters, gradients)

    def _muon(
        self, group: Mapping[str, Any], parameters: list[torch.Tensor], gradients: list[torch.Tensor]
    ) -> None:
        means = [self.state_of(parameter, MOMENTUM)["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - self.config.momentum)
        if self.config.nesterov:
            updates = list(torch._foreach_lerp(gradients, means, self.config.momentum))
        else:
            updates = [mean.clone() for mean in means]
        self._orthogonalize(parameters, updates)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _orthogonalize(self, parameters: Sequence[torch.Tensor], updates: Sequence[torch.Tensor]) -> None:
        """Orthogonalize and scale updates in place; ranks that share parameters do some each."""
        matrices: list[torch.Tensor] = []
        gathered = []
        for parameter, update in zip(parameters, updates, strict=True):
            shared = self.shared.get(parameter)
            if shared is None:
                matrices += self._maps(self.names[parameter], update)
            else:
                wholes = shared.gather(update)
                gathered.append((shared, wholes, update))
                matrices += [part for name, whole in wholes.items() for part in self._maps(name, whole)]
        orthogonalize(matrices, self.config.newton_schulz_steps, self._dtype)
        for matrix in matrices:
            matrix.mul_(self.config.scale(*matrix.shape[-2:]))
        for shared, wholes, update in gathered:
            shared.scatter(wholes, update)

    def _maps(self, name: str, whole: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return views of the maps that are fused in a weight."""
        return torch.split(whole, list(self._fused.get(name, whole.shape[-2:-1])), dim=-2)

    def _adamw(
        self, group: Mapping[str, Any], parameters: list[torch.Tensor], gradients: list[torch.Tensor]
    ) -> None:
        states = [self.state_of(parameter, MOMENTS) for parameter in parameters]
        betas = self.config.beta1, self.config.beta2
        fused_adamw(parameters, gradients, states, group, betas, self.config.epsilon)
