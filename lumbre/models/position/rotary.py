"""Rotary positions: turn queries and keys by angles that grow with position (Su et al., arXiv:2104.09864).

The two halves of a head are paired (as in GPT-NeoX and Hugging Face's Llama), not neighbouring dimensions.
Shapes: B batch, T time, M heads, H head size, C = H / 2.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from lumbre.errors import Problem
from lumbre.models.position.base import Position, PositionConfig, Rotation
from lumbre.models.position.scaling import NoScaling, RotaryScaling
from lumbre.models.position.sinusoidal import frequencies


class RotaryConfig(PositionConfig):
    """Turn queries and keys, so that their product knows the distance alone: Llama, ModernBERT."""

    type: Literal["rotary"] = "rotary"
    theta: PositiveFloat = 10_000.0
    """Base of the geometric progression of wavelengths."""
    local_theta: PositiveFloat | None = None
    """Base in layers that attend locally, which are then not scaled; left out, they are as the others."""
    scaling: RotaryScaling = NoScaling()
    """How a trained model is stretched to longer sequences."""
    max_length: PositiveInt | None = None
    """Longest sequence that the model is meant for, stated in what is exported; longer ones still run."""

    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> "Rotary":
        """Return the rotation for this head size."""
        return Rotary(head_size, self.theta, self.local_theta, self.scaling)

    def misfits(self, hidden_size: int, num_heads: int, head_size: int) -> Iterator[Problem]:
        """Yield a problem where the halves of a head cannot pair up."""
        if head_size % 2:
            fault = f"rotary positions turn pairs of dimensions, and the head size {head_size} is odd"
            yield Problem("head_size", fault, f"use {head_size + 1}, or another num_heads")


class Rotary(Position):
    """Rotation of each pair (i, i + H/2) by position * theta^(-2i/H), or by the scaled frequency."""

    def __init__(
        self, head_size: int, theta: float, local_theta: float | None, scaling: RotaryScaling
    ) -> None:
        super().__init__()
        self.head_size = head_size
        self.theta = theta
        self.local_theta = local_theta
        self.scaling = scaling

    def rotation(self, position_ids_BT: Tensor, local: bool = False) -> Rotation:
        """Return the rotation by these positions; its tables are float32 in any model."""
        theta, scaling = self.theta, self.scaling
        if local and self.local_theta is not None:
            theta, scaling = self.local_theta, NoScaling()
        frequency_C = scaling.scale(frequencies(self.head_size, theta, position_ids_BT.device), theta)
        angle_BT1C = position_ids_BT[:, :, None, None].float() * frequency_C
        return Rotation(angle_BT1C.cos() * scaling.magnitude, angle_BT1C.sin() * scaling.magnitude)


def rotate(x_BTMH: Tensor, rotation: Rotation) -> Tensor:
    """Turn the queries or keys (or both side by side) of every head, in float32 or wider."""
    y_BTMH: Tensor = _Rotate.apply(x_BTMH, *rotation)  # type: ignore[no-untyped-call]
    return y_BTMH


class _Rotate(torch.autograd.Function):
    """The gradient turns back: half the time of autograd's own on a CPU, which adds up padded halves."""

    @staticmethod
    def forward(ctx: Any, x_BTMH: Tensor, cos_BT1C: Tensor, sin_BT1C: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1C, sin_BT1C)
        # Widened once: kernels of mixed types are slower.
        wide_BTMH = x_BTMH.to(torch.promote_types(x_BTMH.dtype, cos_BT1C.dtype))
        turned_BTMH = wide_BTMH * torch.cat((cos_BT1C, cos_BT1C), dim=-1)
        (a_BTMC, b_BTMC), (new_a_BTMC, new_b_BTMC) = wide_BTMH.chunk(2, dim=-1), turned_BTMH.chunk(2, dim=-1)
        new_a_BTMC.addcmul_(b_BTMC, sin_BT1C, value=-1)
        new_b_BTMC.addcmul_(a_BTMC, sin_BT1C)
        return turned_BTMH.type_as(x_BTMH)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cos_BT1C, sin_BT1C = ctx.saved_tensors
        return rotate(gradients[0], Rotation(cos_BT1C, -sin_BT1C)), None, None
