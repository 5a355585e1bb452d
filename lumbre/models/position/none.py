"""No position encoding: a decoder learns order from the causal mask (Kazemnejad et al., arXiv:2305.19466)."""

from typing import Literal

from lumbre.models.position.base import Position, PositionConfig


class NoneConfig(PositionConfig):
    """Nothing is added; a decoder still sees order in how much past a token has, an encoder sees none."""

    type: Literal["none"] = "none"

    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> Position:
        """Return the encoding that opens no door."""
        return Position()
