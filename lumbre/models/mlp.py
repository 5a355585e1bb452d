"""The MLP of a block: two linear maps around an activation; gated (Shazeer, 2020, arXiv:2002.05202), three.

Shapes: B batch, T time, D hidden, I intermediate, F what `up` gives: I, or 2I where it is gated.
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
        y_BTD: Tensor = self.down(self.activated(self.up(x_BTD)))
        return y_BTD

    def activated(self, inner_BTF: Tensor) -> Tensor:
        """Return the activation of inner_BTF, of the gate times the value where it is both: inner_BTI."""
        if not self.gated:
            return self.activation(inner_BTF)
        gate_BTI, value_BTI = inner_BTF.chunk(2, dim=-1)
        return self.activation(gate_BTI) * value_BTI
