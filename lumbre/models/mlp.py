"""The MLP of a block: two linear maps around an activation; gated (Shazeer, 2020, arXiv:2002.05202), three.

Shapes: B batch, T time, D hidden, I intermediate.
"""

from typing import Literal

from torch import Tensor, nn

from lumbre.config import Choice
from lumbre.models.layers import ACTIVATIONS, Activation


class MlpConfig(Choice):
    """What a block does to each token by itself; width, activation and gate are the model's."""


class DenseConfig(MlpConfig):
    """One MLP for every token."""

    type: Literal["dense"] = "dense"


class Mlp(nn.Module):
    """Up, activation (times the gated value), down."""

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
