"""Attention with a dense mask through torch's SDPA: every device, every pattern.

Shapes: B batch, Q queries, T keys, N heads, K key/value heads, H head size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lumbre import products
from lumbre.models.attention.pattern import Pattern

SHORT = {"mkl": 128, "onednn": 256}
"""Most tokens that are attended by whole products on a CPU, by the library that computes them."""


@dataclass(frozen=True)
class Dense:
    """SDPA with what is added to the scores spelt out, or without where the plain pattern says it all."""

    mask_BNQT: Tensor | None
    causal: bool
    empty: bool = False
    """Whether a query may see no key."""

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH."""
        k_BTNH, v_BTNH = repeat(k_BTKH, q_BQNH.shape[2]), repeat(v_BTKH, q_BQNH.shape[2])
        return attend(q_BQNH, k_BTNH, v_BTNH, scale, self.mask_BNQT, self.causal, empty=self.empty)


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
    mask = scores if allowed is None else torch.where(allowed, scores, -torch.inf)
    return Dense(mask, causal=False, empty=not pattern.itself)


def attend(
    q_BQNH: Tensor,
    k_BTNH: Tensor,
    v_BTNH: Tensor,
    scale: float | None,
    mask: Tensor | None,
    causal: bool,
    *,
    empty: bool = True,
) -> Tensor:
    """Return y_BQNH; the mask [B or 1, N or 1, Q, T] is added to the scores.

    A query that sees no key gets zeros; where none is such, not `empty`, that is not looked for.
    """
    q_BNQH, k_BNTH, v_BNTH = (x.transpose(1, 2) for x in (q_BQNH, k_BTNH, v_BTNH))
    mask = None if mask is None else mask.type_as(q_BNQH)
    if _is_short(q_BNQH, k_BNTH):
        return _short(q_BNQH, k_BNTH, v_BNTH, scale, mask, causal, empty).transpose(1, 2)
    y_BNQH = F.scaled_dot_product_attention(
        q_BNQH, k_BNTH, v_BNTH, attn_mask=mask, is_causal=causal and mask is None, scale=scale
    )
    return y_BNQH.transpose(1, 2)


def _is_short(q_BNQH: Tensor, k_BNTH: Tensor) -> bool:
    """Whether whole products are faster than SDPA's tiles, whose time on a CPU goes into many small ones."""
    longest = max(q_BNQH.shape[2], k_BNTH.shape[2])
    on_cpu = q_BNQH.device.type == "cpu" and q_BNQH.dtype in (torch.float32, torch.bfloat16)
    # torch leaves products in bfloat16 to oneDNN anyway.
    library = "onednn" if q_BNQH.dtype == torch.bfloat16 or products.are_onednn() else "mkl"
    return on_cpu and longest <= SHORT[library]


def _short(
    q_BNQH: Tensor,
    k_BNTH: Tensor,
    v_BNTH: Tensor,
    scale: float | None,
    mask: Tensor | None,
    causal: bool,
    empty: bool,
) -> Tensor:
    """Return y_BNQH, all scores at once; values may have another width."""
    B, N, Q, H = q_BNQH.shape
    T = k_BNTH.shape[2]
    scale = H**-0.5 if scale is None else scale
    q, k, v = (x.reshape(B * N, *x.shape[2:]) for x in (q_BNQH, k_BNTH, v_BNTH))
    if mask is None:
        # Added in the product.
        added = q.new_full((Q, T), -torch.inf).triu(1) if causal else q.new_zeros(())
        weights = torch.baddbmm(added, q, k.mT, alpha=scale).softmax(-1)
    else:
        scores_BNQT = torch.bmm(q * scale, k.mT).view(B, N, Q, T) + mask
        softmax = torch.ops.aten._safe_softmax if empty else torch.softmax
        weights = softmax(scores_BNQT, -1).view(B * N, Q, T)
    return torch.bmm(weights, v).view(B, N, Q, -1)


def repeat(x_BTKH: Tensor, heads: int) -> Tensor:
    """Return a key or value for every head: with a mask, or on a CPU, SDPA's own grouping is not fused."""
    groups = heads // x_BTKH.shape[2]
    return x_BTKH if groups == 1 else x_BTKH.repeat_interleave(groups, dim=2)
