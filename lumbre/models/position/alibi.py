"""ALiBi: bias attention by distance (Press et al., 2021, arXiv:2108.12409).

An encoder gets the symmetric form, a penalty on the distance to either side.
"""

from typing import Literal

import torch
from torch import Tensor

from lumbre.models.position.base import ALL, Position, PositionConfig


class AlibiConfig(PositionConfig):
    """A penalty on the attention scores that grows with distance, steeper in some heads than in others."""

    type: Literal["alibi"] = "alibi"

    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> "Alibi":
        """Return the bias with one slope per head."""
        return Alibi(num_heads)


class Alibi(Position):
    """Scores minus slope times distance; what the mask hides needs no distance."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.slopes = slopes(num_heads)

    def bias(self, query_positions_BQ: Tensor, key_positions_BT: Tensor, heads: slice = ALL) -> Tensor:
        """Return bias_BNQT = -slope_N * |query's position - key's position|."""
        distance_BQT = (query_positions_BQ[:, :, None] - key_positions_BT[:, None, :]).abs()
        slope_N = torch.tensor(self.slopes[heads], dtype=torch.float32, device=query_positions_BQ.device)
        return -slope_N[:, None, None] * distance_BQT[:, None]


def slopes(num_heads: int) -> list[float]:
    """Return a slope per head: 2^(-8/N), 2^(-16/N), ...; where N is no power of two, as the authors' code.

    That is the slopes of the power of two below, then every other slope of the one above.
    """
    below = 1 << (num_heads.bit_length() - 1)
    first = [2.0 ** (-8.0 * (head + 1) / below) for head in range(below)]
    above = [2.0 ** (-4.0 * (head + 1) / below) for head in range(0, 2 * below, 2)]
    return first + above[: num_heads - below]
