"""Scaled-dot-product attention with grouped queries (Ainslie et al., 2023, arXiv:2305.13245).

One Attention serves every position encoding, encoders and decoders, and the decoder's look at an encoder:
rotation, pattern and kernel come in from the trunk, made once per forward. Shapes: B batch, Q queries,
T keys, N heads, K key/value heads, H head size, D hidden, M = N + 2K.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lumbre.models.attention.kernel import Kernel
from lumbre.models.layers import NormKind, build_norm, take
from lumbre.models.position import Rotation, rotate


class Cache(Protocol):
    """Keys and values of earlier tokens, as transformers' own caches hold them."""

    @property
    def layers(self) -> Sequence[Any]:
        """Each layer's `keys` and `values`, [B, K, T, H]."""
        ...

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many keys a layer holds."""
        ...

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Add this call's keys and values [B, K, T, H] to the layer's, and return all of them."""
        ...


class Attention(nn.Module):
    """Queries, keys and values, scores through a kernel, one product out."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        bias: bool,
        *,
        cross: bool = False,
        scaled: bool = True,
        qk_norm: tuple[NormKind, float] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_size = head_size
        self.scale = None if scaled else 1.0
        """What scores are multiplied by; None is 1 / sqrt(head_size)."""
        queries, pairs = num_heads * head_size, 2 * num_kv_heads * head_size
        self.qkv = None if cross else nn.Linear(hidden_size, queries + pairs, bias=bias)
        self.query = nn.Linear(hidden_size, queries, bias=bias) if cross else None
        self.key_value = nn.Linear(hidden_size, pairs, bias=bias) if cross else None
        self.query_norm = build_norm(qk_norm[0], head_size, qk_norm[1], False) if qk_norm else None
        self.key_norm = build_norm(qk_norm[0], head_size, qk_norm[1], False) if qk_norm else None
        self.output = nn.Linear(queries, hidden_size, bias=bias)

    def forward(
        self,
        x_BQD: Tensor,
        rotation: Rotation | None,
        kernel: Kernel,
        *,
        memory_BTD: Tensor | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        rows_M: Tensor | None = None,
    ) -> Tensor:
        """Mix tokens: those of x_BQD, or where it is given those of `memory_BTD`, an encoder's output.

        `cache` holds the keys and values of the tokens before x_BQD. With `rows_M`, indices into the B * Q
        queries, what comes back is y_MD of these alone.
        """
        N, K, H = self.num_heads, self.num_kv_heads, self.head_size
        if self.qkv is not None:
            qkv_BQMH: Tensor = self.qkv(x_BQD).unflatten(-1, (N + 2 * K, H))
            if self.query_norm is None and rotation is not None:
                both_BQMH, v_BTKH = torch.split(qkv_BQMH, [N + K, K], dim=2)
                q_BQNH, k_BTKH = torch.split(rotate(both_BQMH, rotation), [N, K], dim=2)
            else:
                q_BQNH, k_BTKH, v_BTKH = torch.split(qkv_BQMH, [N, K, K], dim=2)
        else:
            assert self.query is not None
            assert self.key_value is not None
            q_BQNH = self.query(x_BQD).unflatten(-1, (N, H))
            if cache is not None and cache.get_seq_length(layer):
                # The encoder's output does not change from one new token to the next.
                held = cache.layers[layer]
                y_BQNH = kernel(q_BQNH, held.keys.transpose(1, 2), held.values.transpose(1, 2), self.scale)
                return self._out(y_BQNH, rows_M)
            k_BTKH, v_BTKH = self.key_value(memory_BTD).unflatten(-1, (2 * K, H)).chunk(2, dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            q_BQNH, k_BTKH = _normed(self.query_norm, q_BQNH), _normed(self.key_norm, k_BTKH)
            if rotation is not None:
                q_BQNH, k_BTKH = rotate(q_BQNH, rotation), rotate(k_BTKH, rotation)
        if cache is not None:
            k_BKTH, v_BKTH = cache.update(k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2), layer)
            k_BTKH, v_BTKH = k_BKTH.transpose(1, 2), v_BKTH.transpose(1, 2)
        return self._out(kernel(q_BQNH, k_BTKH, v_BTKH, self.scale), rows_M)

    def _out(self, y_BQNH: Tensor, rows_M: Tensor | None) -> Tensor:
        heads = y_BQNH.flatten(2)
        out: Tensor = self.output(heads if rows_M is None else take(heads.flatten(0, 1), rows_M))
        return out


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """Return the norm in its weight's dtype: under autocast x is narrower, and torch's kernel wants one."""
    weight = norm.weight
    assert isinstance(weight, Tensor)
    y: Tensor = norm(x.to(weight.dtype))
    return y.type_as(x)
