"""Liger's Triton kernels in place of several of torch's (Hsu et al., 2024, arXiv:2410.10989).

Norms and SwiGLU. The loss has its own way to hold few logits, rotations follow documents, and a GeGLU of
Liger's takes gate and value apart, copied. Shapes: B batch, T time, D hidden, I intermediate, F = 2I.
"""

import torch.nn.functional as F
from liger_kernel.ops import (
    LigerFusedGateUpSiLUMulFunction,
    LigerLayerNormFunction,
    LigerRMSNormFunction,
)
from torch import Tensor, nn

from lumbre.models import Transformer
from lumbre.models.mlp import Mlp


def swap(trunk: Transformer) -> None:
    """Give the trunk's parts Liger's kernels where it has any; parameters stay as they are."""
    for part in trunk.modules():
        if type(part) is nn.RMSNorm:
            part.__class__ = LigerRMSNorm
        elif type(part) is nn.LayerNorm and part.bias is not None:
            part.__class__ = LigerLayerNorm
        elif type(part) is Mlp and part.gated and part.activation is F.silu:
            part.__class__ = LigerSwiGlu


class LigerRMSNorm(nn.RMSNorm):
    """RMSNorm, in float32 inside as torch's is."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return y_BTD; x's gradient has memory of its own, for others may read that of y."""
        y_BTD: Tensor = LigerRMSNormFunction.apply(x_BTD, self.weight, self.eps, 0.0, "gemma", False, None)
        return y_BTD


class LigerLayerNorm(nn.LayerNorm):
    """LayerNorm with a bias."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return y_BTD."""
        y_BTD: Tensor = LigerLayerNormFunction.apply(x_BTD, self.weight, self.bias, self.eps)
        return y_BTD


class LigerSwiGlu(Mlp):
    """An MLP whose gate and product are one kernel, which reads both halves where they lie."""

    def activated(self, inner_BTF: Tensor) -> Tensor:
        """Return inner_BTI."""
        # Its backward pass knows two dimensions alone.
        inner_PI: Tensor = LigerFusedGateUpSiLUMulFunction.apply(inner_BTF.flatten(0, -2))
        return inner_PI.view(*inner_BTF.shape[:-1], -1)
