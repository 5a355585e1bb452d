"""Sinusoidal positions: fixed waves of many lengths (Vaswani et al., 2017, arXiv:1706.03762, 3.5)."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from lumbre.errors import Problem
from lumbre.models.position.base import Position, PositionConfig


class SinusoidalConfig(PositionConfig):
    """Fixed sine and cosine waves, added to the input; nothing is trained."""

    type: Literal["sinusoidal"] = "sinusoidal"
    theta: PositiveFloat = 10_000.0
    """Base of the geometric progression of wavelengths."""

    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> "Sinusoidal":
        """Return the waves for this hidden size."""
        return Sinusoidal(hidden_size, self.theta)

    def misfits(self, hidden_size: int, num_heads: int, head_size: int) -> Iterator[Problem]:
        """Yield a problem where sines and cosines cannot pair up."""
        if hidden_size % 2:
            fault = f"sinusoidal positions pair the dimensions, and hidden_size {hidden_size} is odd"
            yield Problem("hidden_size", fault, f"use {hidden_size + 1}")


class Sinusoidal(Position):
    """sin and cos of position / theta^(2i/D), interleaved, added to embeddings times sqrt(D) (3.4)."""

    def __init__(self, hidden_size: int, theta: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.theta = theta

    def embed(self, x_BTD: Tensor, position_ids_BT: Tensor) -> Tensor:
        """Scale the embeddings as the paper does, so that the waves do not drown them, and add the waves."""
        waves_BTD = sinusoids(position_ids_BT, self.hidden_size, self.theta)
        return x_BTD * math.sqrt(self.hidden_size) + waves_BTD.type_as(x_BTD)


def frequencies(size: int, theta: float, device: torch.device) -> Tensor:
    """Return theta^(-2i/size) for i below size / 2, in float32."""
    exponents_C: Tensor = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    wavelengths_C: Tensor = theta**exponents_C
    return wavelengths_C.reciprocal()


def sinusoids(position_ids_BT: Tensor, size: int, theta: float) -> Tensor:
    """Return sin and cos of each position at each frequency, interleaved: waves_BTD in float32."""
    angles_BTC = position_ids_BT[..., None].float() * frequencies(size, theta, position_ids_BT.device)
    return torch.stack((angles_BTC.sin(), angles_BTC.cos()), dim=-1).flatten(-2)
