"""Attention that skips whole blocks of unseen keys, through torch's FlexAttention (arXiv:2412.05496).

Shapes: B batch, Q queries, T keys, N heads, K key/value heads, H head size, C blocks of BLOCK tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks, flex_attention

from lumbre.models.attention.pattern import Pattern

BLOCK = 128
SMALLEST_HEAD = 16

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a query sees a key, from row, head, query and key."""


@dataclass(frozen=True)
class Flex:
    """FlexAttention with its block mask; on CUDA compiled, elsewhere torch's unfused reference."""

    blocks: BlockMask | None
    bias_BNQT: Tensor | None

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH."""
        attend = _compiled() if v_BTKH.is_cuda else flex_attention
        # Under autocast what was normed or turned may be wider than the values.
        q_BNQH, k_BKTH, v_BKTH = (x.type_as(v_BTKH).transpose(1, 2) for x in (q_BQNH, k_BTKH, v_BTKH))
        y_BNQH: Tensor = attend(
            q_BNQH,
            k_BKTH,
            v_BKTH,
            score_mod=None if self.bias_BNQT is None else _add(self.bias_BNQT),
            block_mask=self.blocks,
            scale=scale,
            enable_gqa=True,
        )
        return y_BNQH.transpose(1, 2)


def flex(pattern: Pattern, x_BQD: Tensor) -> Flex:
    """Return the kernel for x_BQD, which attends to itself."""
    masks = _masks(pattern)
    blocks = _blocks(pattern, x_BQD, and_masks(*masks)) if masks else None
    return Flex(blocks, pattern.bias_BNQT)


def fault(x_BQD: Tensor, head_size: int) -> str | None:
    """Return why FlexAttention cannot serve tensors like these, or None."""
    if x_BQD.device.type != "cuda":
        return f"needs a CUDA device, and the model is on {x_BQD.device.type}"
    if not _triton():
        return "needs torch.compile, and triton is not installed"
    if head_size < SMALLEST_HEAD:
        return f"needs heads of at least {SMALLEST_HEAD}, and these have {head_size}"
    return None


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


@cache
def _compiled() -> Any:
    # Past its limit torch falls back to the unfused reference: kinds of layers, shapes and eval need more.
    return torch.compile(flex_attention, recompile_limit=64)  # type: ignore[call-overload]


def _masks(pattern: Pattern) -> list[Mask]:
    masks: list[Mask] = []
    window, documents_BT, prefix_BT = pattern.window, pattern.query_documents_BQ, pattern.prefix_BT
    if pattern.causal and prefix_BT is not None:
        masks.append(lambda row, head, query, key: (query >= key) | prefix_BT[row, key])
    elif pattern.causal:
        masks.append(lambda row, head, query, key: query >= key)
    if window is not None:
        masks.append(lambda row, head, query, key: (query - key).abs() <= window)
    if documents_BT is not None:
        masks.append(lambda row, head, query, key: documents_BT[row, query] == documents_BT[row, key])
    return masks


def _add(bias_BNQT: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    if len(bias_BNQT) == 1:
        return lambda score, row, head, query, key: score + bias_BNQT[0, head, query, key]
    return lambda score, row, head, query, key: score + bias_BNQT[row, head, query, key]


def _blocks(pattern: Pattern, x_BQD: Tensor, mask: Mask) -> BlockMask:
    """Return which blocks of keys each block of queries needs, and in which of them it sees every pair.

    From each block's first and last place and document: torch's create_block_mask looks at every pair.
    """
    length = x_BQD.shape[1]
    first_C = torch.arange(0, length, BLOCK, device=x_BQD.device)
    ahead_CC = first_C[:, None] - first_C
    some_BCC = torch.ones_like(ahead_CC, dtype=torch.bool)[None]
    whole_C = first_C + BLOCK <= length
    every_BCC = some_BCC & whole_C[:, None] & whole_C
    if pattern.causal:
        some, every = ahead_CC >= 0, ahead_CC > 0
        if pattern.prefix_BT is not None:
            none_BC, all_BC = _range(pattern.prefix_BT.int())
            some, every = some | (all_BC[:, None] == 1), every | (none_BC[:, None] == 1)
        some_BCC, every_BCC = some_BCC & some, every_BCC & every
    if pattern.window is not None:
        some_BCC = some_BCC & (ahead_CC.abs() - BLOCK < pattern.window)
        every_BCC = every_BCC & (ahead_CC.abs() + BLOCK - 1 <= pattern.window)
    if pattern.query_documents_BQ is not None:
        low_BC, high_BC = _range(pattern.query_documents_BQ)
        query_low, query_high, key_low, key_high = (
            x_BC.unsqueeze(dim) for dim in (2, 1) for x_BC in (low_BC, high_BC)
        )
        some_BCC = some_BCC & (query_low <= key_high) & (key_low <= query_high)
        every_BCC = every_BCC & (query_low == key_high) & (key_low == query_high)
    part_BCC = some_BCC & ~every_BCC
    return BlockMask.from_kv_blocks(
        *_order(part_BCC), *_order(every_BCC), BLOCK_SIZE=BLOCK, mask_mod=mask, seq_lengths=(length, length)
    )


def _range(documents_BT: Tensor) -> tuple[Tensor, Tensor]:
    fill = -documents_BT.shape[1] % BLOCK
    padded_BT = torch.cat([documents_BT, documents_BT[:, -1:].expand(-1, fill)], dim=1)
    low_BC, high_BC = padded_BT.view(len(padded_BT), -1, BLOCK).aminmax(dim=2)
    return low_BC, high_BC


def _order(chosen_BCC: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many key blocks each query block has, and which: those first."""
    chosen_B1CC = chosen_BCC[:, None].int()
    return chosen_B1CC.sum(3, dtype=torch.int32), chosen_B1CC.argsort(stable=True, descending=True).int()
