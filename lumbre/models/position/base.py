"""Position encodings have three doors into a Transformer, and each encoding opens one.

Shapes: B batch, T time, D hidden, N heads, H head size, M any number of heads.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from lumbre.config import Choice
from lumbre.errors import Problem

Rotation = Callable[[Tensor], Tensor]
"""Turns x_BTMH, the queries or keys (or both side by side) of every head."""


class PositionConfig(Choice):
    """How a model knows the order of its tokens."""

    @abstractmethod
    def build(self, hidden_size: int, num_heads: int, head_size: int) -> "Position":
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

    def rotation(self, position_ids_BT: Tensor) -> Rotation | None:
        """Return what turns queries and keys: made once per forward, used by every layer."""
        return None

    def bias(self, position_ids_BT: Tensor) -> Tensor | None:
        """Return what is added to the attention scores, bias_BNTT (query by key), in float32."""
        return None
