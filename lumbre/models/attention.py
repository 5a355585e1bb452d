"""Scaled-dot-product attention with grouped queries (Ainslie et al., 2023, arXiv:2305.13245).

One Attention serves every position encoding: the encoding's rotation and bias come in from the trunk, and
so does the mask, built once per forward. Shapes: B batch, T time, N heads, K key/value heads, H head size,
D hidden, M = N + 2K.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumbre.models.position import Rotation


class Attention(nn.Module):
    """Queries, keys and values from one product, scores through torch's SDPA, one product out."""

    def __init__(
        self, hidden_size: int, num_heads: int, num_kv_heads: int, head_size: int, causal: bool, bias: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_size = head_size
        self.causal = causal
        self.qkv = nn.Linear(hidden_size, (num_heads + 2 * num_kv_heads) * head_size, bias=bias)
        self.output = nn.Linear(num_heads * head_size, hidden_size, bias=bias)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, mask_BNTT: Tensor | None) -> Tensor:
        """Mix tokens; `mask_BNTT` is added to the scores, None stands for the plain (causal) pattern."""
        N, K = self.num_heads, self.num_kv_heads
        qkv_BTMH: Tensor = self.qkv(x_BTD).unflatten(-1, (N + 2 * K, self.head_size))
        if rotation is None:
            q_BNTH, k_BKTH, v_BKTH = torch.split(qkv_BTMH.transpose(1, 2), [N, K, K], dim=1)
        else:
            turned_BMTH = rotation(qkv_BTMH[:, :, : N + K]).transpose(1, 2)
            q_BNTH, k_BKTH = torch.split(turned_BMTH, [N, K], dim=1)
            v_BKTH = qkv_BTMH[:, :, N + K :].transpose(1, 2)
        # Repeated, not enable_gqa: with a mask, or on a CPU, that falls back to the unfused kernel.
        k_BNTH, v_BNTH = _repeat(k_BKTH, N // K), _repeat(v_BKTH, N // K)
        y_BNTH = F.scaled_dot_product_attention(
            q_BNTH,
            k_BNTH,
            v_BNTH,
            attn_mask=mask_BNTT,
            is_causal=self.causal and mask_BNTT is None,
        )
        y_BTD: Tensor = self.output(y_BNTH.transpose(1, 2).flatten(2))
        return y_BTD


def _repeat(x_BKTH: Tensor, times: int) -> Tensor:
    return x_BKTH if times == 1 else x_BKTH.repeat_interleave(times, dim=1)


def build_mask(
    x_BTD: Tensor, document_ids_BT: Tensor | None, bias_BNTT: Tensor | None, causal: bool
) -> Tensor | None:
    """Return what is added to every layer's scores, or None where the plain (causal) pattern says it all.

    A token sees its own document alone, itself always included; padding (document 0) sees padding, so that
    no row is empty. Reads one flag back from the device when there are documents.
    """
    allowed_BNTT: Tensor | None = None
    if document_ids_BT is not None and _needs_mask(document_ids_BT, causal):
        allowed_BNTT = (document_ids_BT[:, :, None] == document_ids_BT[:, None, :])[:, None]
    if causal and (allowed_BNTT is not None or bias_BNTT is not None):
        T = x_BTD.shape[1]
        past_TT = torch.ones(T, T, dtype=torch.bool, device=x_BTD.device).tril()
        allowed_BNTT = past_TT[None, None] if allowed_BNTT is None else allowed_BNTT & past_TT
    if allowed_BNTT is None:
        return None if bias_BNTT is None else bias_BNTT.type_as(x_BTD)
    scores = x_BTD.new_zeros(()) if bias_BNTT is None else bias_BNTT.type_as(x_BTD)
    return torch.where(allowed_BNTT, scores, -torch.inf)


def _needs_mask(document_ids_BT: Tensor, causal: bool) -> bool:
    other_BT = document_ids_BT != document_ids_BT[:, :1]
    if causal:
        # What comes after the only document is padding, which nothing before it sees.
        other_BT = other_BT & (document_ids_BT != 0)
    return bool(other_BT.any())
