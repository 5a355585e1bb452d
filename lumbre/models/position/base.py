"""Position encodings have three doors into a Transformer, and each encoding opens at most one.

Shapes: B batch, T time (Q where queries are fewer than keys), D hidden, N heads, H head size, C = H / 2.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from lumbre.config import Choice
from lumbre.errors import Problem

ALL = slice(None)
"""All heads."""


class Rotation(NamedTuple):
    """The angles by which the pairs of a head are turned, the same in every head."""

    cos_BT1C: Tensor
    sin_BT1C: Tensor


class PositionConfig(Choice):
    """How a model knows the order of its tokens."""

    @abstractmethod
    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> "Position":
        """Return the module; learned tables are drawn by the Transformer that holds it."""

    @property
    def limit(self) -> int | None:
        """Longest sequence in tokens that has positions; None where every length has."""
        return None

    def misfits(self, hidden_size: int, num_heads: int, head_size: int) -> Iterator[Problem]:
        """Yield what keeps this encoding from fitting a model of these sizes; keys are the model's."""
        yield from ()


class Position(nn.Module):
    """An encoding that opens no door; a member overrides the one it opens."""

    def embed(self, x_BTD: Tensor, position_ids_BT: Tensor) -> Tensor:
        """Return the embedded tokens with their positions added."""
        return x_BTD

    def rotation(self, position_ids_BT: Tensor, local: bool = False) -> Rotation | None:
        """Return what turns queries and keys, in the layers that attend locally or in the others.

        Made once per forward, used by every layer of the kind.
        """
        return None

    @property
    def per_head(self) -> Iterator[nn.Parameter]:
        """What is trained of which each head has a part of its own."""
        yield from ()

    def bias(self, query_positions_BQ: Tensor, key_positions_BT: Tensor, heads: slice = ALL) -> Tensor | None:
        """Return what is added to the attention scores of these heads, bias_BNQT, in float32 or wider."""
        return None
