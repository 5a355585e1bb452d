"""Attention with a dense mask through torch's SDPA: every device, every pattern.

Shapes: B batch, Q queries, T keys, N heads, K key/value heads, H head size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lumbre.models.attention.pattern import Pattern


@dataclass(frozen=True)
class Dense:
    """SDPA with what is added to the scores spelt out, or without where the plain pattern says it all."""

    mask_BNQT: Tensor | None
    causal: bool

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH."""
        k_BTNH, v_BTNH = repeat(k_BTKH, q_BQNH.shape[2]), repeat(v_BTKH, q_BQNH.shape[2])
        return attend(q_BQNH, k_BTNH, v_BTNH, scale, self.mask_BNQT, self.causal)


def dense(pattern: Pattern, x_BQD: Tensor, keys: int) -> Dense:
    """Return the kernel for queries as wide as x_BQD over so many keys."""
    queries = x_BQD.shape[1]
    if pattern.plain(keys):
        if not pattern.causal or queries == 1:
            return Dense(None, causal=False)
        if pattern.past == 0:
            return Dense(None, causal=True)
    allowed = pattern.allowed(queries, keys, x_BQD.device)
    scores = x_BQD.new_zeros(()) if pattern.bias_BNQT is None else pattern.bias_BNQT.type_as(x_BQD)
    return Dense(scores if allowed is None else torch.where(allowed, scores, -torch.inf), causal=False)


def attend(
    q_BQNH: Tensor, k_BTNH: Tensor, v_BTNH: Tensor, scale: float | None, mask: Tensor | None, causal: bool
) -> Tensor:
    """Return y_BQNH; the mask [B or 1, N or 1, Q, T] is added to the scores."""
    q_BNQH, k_BNTH, v_BNTH = (x.transpose(1, 2) for x in (q_BQNH, k_BTNH, v_BTNH))
    mask = None if mask is None else mask.type_as(q_BNQH)
    y_BNQH = F.scaled_dot_product_attention(
        q_BNQH, k_BNTH, v_BNTH, attn_mask=mask, is_causal=causal and mask is None, scale=scale
    )
    return y_BNQH.transpose(1, 2)


def repeat(x_BTKH: Tensor, heads: int) -> Tensor:
    """Return a key or value for every head: with a mask, or on a CPU, SDPA's own grouping is not fused."""
    groups = heads // x_BTKH.shape[2]
    return x_BTKH if groups == 1 else x_BTKH.repeat_interleave(groups, dim=2)
