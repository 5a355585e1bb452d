"""Learned positions: one trained vector per position (Gehring et al., 2017, arXiv:1705.03122)."""

from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from lumbre.models.position.base import Position, PositionConfig


class LearnedConfig(PositionConfig):
    """One trained vector per position, added to the input: BERT, GPT-2."""

    type: Literal["learned"] = "learned"
    max_length: PositiveInt
    """Longest sequence in tokens; there is no vector for what lies beyond."""

    @property
    def limit(self) -> int | None:
        """Longest sequence in tokens."""
        return self.max_length

    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> "Learned":
        """Return the table of max_length vectors."""
        return Learned(self.max_length, hidden_size)


class Learned(Position):
    """A table of trained vectors, looked up by position."""

    def __init__(self, max_length: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_length, hidden_size)

    def embed(self, x_BTD: Tensor, position_ids_BT: Tensor) -> Tensor:
        """Add the vector of each position."""
        out_BTD: Tensor = x_BTD + self.embedding(position_ids_BT)
        return out_BTD
