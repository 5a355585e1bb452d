"""Rotary positions: turn queries and keys by angles that grow with position (Su et al., arXiv:2104.09864).

The two halves of a head are paired (as in GPT-NeoX and Hugging Face's Llama), not neighbouring dimensions.
Shapes: B batch, T time, M heads, H head size, C = H / 2.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from lumbre.errors import Problem
from lumbre.models.position.base import Position, PositionConfig, Rotation
from lumbre.models.position.sinusoidal import frequencies


class RotaryConfig(PositionConfig):
    """Turn queries and keys, so that their product knows the distance alone: Llama, ModernBERT."""

    type: Literal["rotary"] = "rotary"
    theta: PositiveFloat = 10_000.0
    """Base of the geometric progression of wavelengths."""
    max_length: PositiveInt | None = None
    """Longest sequence that the model is meant for, stated in what is exported; longer ones still run."""

    def build(self, hidden_size: int, num_heads: int, head_size: int) -> "Rotary":
        """Return the rotation for this head size."""
        return Rotary(head_size, self.theta)

    def misfits(self, hidden_size: int, num_heads: int, head_size: int) -> Iterator[Problem]:
        """Yield a problem where the halves of a head cannot pair up."""
        if head_size % 2:
            fault = f"rotary positions turn pairs of dimensions, and the head size {head_size} is odd"
            yield Problem("head_size", fault, f"use {head_size + 1}, or another num_heads")


class Rotary(Position):
    """Rotation of each pair (i, i + H/2) by position * theta^(-2i/H)."""

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        self.head_size = head_size
        self.theta = theta

    def rotation(self, position_ids_BT: Tensor) -> Rotation:
        """Return the rotation by these positions; its tables are float32 in any model."""
        frequency_C = frequencies(self.head_size, self.theta, position_ids_BT.device)
        angles_BTC = position_ids_BT[..., None].float() * frequency_C
        cos_BT1C, sin_BT1C = angles_BTC.cos()[:, :, None], angles_BTC.sin()[:, :, None]

        def rotate(x_BTMH: Tensor) -> Tensor:
            a_BTMC, b_BTMC = x_BTMH.chunk(2, dim=-1)
            turned = (a_BTMC * cos_BT1C - b_BTMC * sin_BT1C, b_BTMC * cos_BT1C + a_BTMC * sin_BT1C)
            return torch.cat(turned, dim=-1).type_as(x_BTMH)

        return rotate
