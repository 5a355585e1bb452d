"""The parts of a block that look at one token at a time: norms, activations, the MLP.

Shapes: B batch, T time, D hidden, I intermediate.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
NormKind = Literal["layernorm", "rmsnorm"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def build_norm(kind: NormKind, size: int, epsilon: float, bias: bool) -> nn.Module:
    """Return LayerNorm (Ba et al., arXiv:1607.06450) or RMSNorm (Zhang and Sennrich, arXiv:1910.07467)."""
    if kind == "rmsnorm":
        return nn.RMSNorm(size, eps=epsilon)
    return nn.LayerNorm(size, eps=epsilon, bias=bias)


class Mlp(nn.Module):
    """Two linear maps around an activation; gated (Shazeer, 2020, arXiv:2002.05202), three."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Activation, gated: bool, bias: bool
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gated = gated
        self.up = nn.Linear(hidden_size, intermediate_size * (2 if gated else 1), bias=bias)
        """Gated: the gate's rows, then the value's, as one product."""
        self.down = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map x_BTD to y_BTD."""
        inner_BTI: Tensor = self.up(x_BTD)
        if self.gated:
            gate_BTI, value_BTI = inner_BTI.chunk(2, dim=-1)
            inner_BTI = self.activation(gate_BTI) * value_BTI
        else:
            inner_BTI = self.activation(inner_BTI)
        y_BTD: Tensor = self.down(inner_BTI)
        return y_BTD
