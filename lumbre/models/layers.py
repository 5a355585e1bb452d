"""Norms and activations."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
NormKind = Literal["layernorm", "rmsnorm"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def build_norm(kind: NormKind, size: int, epsilon: float, bias: bool) -> nn.Module:
    """Return LayerNorm (Ba et al., arXiv:1607.06450) or RMSNorm (Zhang and Sennrich, arXiv:1910.07467)."""
    if kind == "rmsnorm":
        return nn.RMSNorm(size, eps=epsilon)
    return nn.LayerNorm(size, eps=epsilon, bias=bias)


def take(x_ND: Tensor, rows_M: Tensor) -> Tensor:
    """Return x_MD, some rows: as a look-up in a table, whose gradient is faster than that of an index."""
    return F.embedding(rows_M, x_ND)
