"""Attention document by document: a packed row costs its documents' squares, and needs no mask.

Where a window is much narrower than a document, blocks of queries meet the keys beside them alone (Beltagy
et al., 2020, arXiv:2004.05150). Nothing is computed for padding: it gets zeros. Shapes: B batch, Q queries,
T keys, N heads, K key/value heads, H head size, L a document's length, C blocks in it, S a block's size, W
the keys that a block meets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable

from lumbre.models.attention.dense import attend, repeat
from lumbre.models.attention.pattern import Pattern, Run

LEAST_BLOCK = 32
"""A narrower window has blocks of so many queries all the same."""
SQUARE_BLOCKS = 5
"""A document of no more blocks than this is faster as one square."""
CALL_COST = 1_000_000
"""What a call costs beside its work, in pairs of tokens times hidden size."""


@dataclass(frozen=True)
class Segment:
    """How one document is attended."""

    run: Run
    mask: Tensor | None = None
    """Added to the scores: [1, N or 1, L, L], or in blocks [C, 1, S, W]."""
    block: int | None = None
    """How many queries a block has; None where the document is one square."""


@dataclass(frozen=True)
class Segments:
    """SDPA once a document."""

    segments: Sequence[Segment]
    causal: bool

    # torch.compiler.disable imports dynamo at once, which takes as long as torch, where a config is read too.
    @_disable_dynamo
    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH."""
        whole = q_BQNH, repeat(k_BTKH, q_BQNH.shape[2]), repeat(v_BTKH, q_BQNH.shape[2])
        lengths = [segment.run.length for segment in self.segments]
        # The backward of a split is one concatenation; a slice's fills a tensor as large as the whole.
        q, k, v = (x_BTNH.flatten(0, 1).split_with_sizes(lengths) for x_BTNH in whole)
        y = [self._attend(*given, scale) for given in zip(self.segments, q, k, v, strict=True)]
        return torch.cat(y).view(q_BQNH.shape)

    def _attend(
        self, segment: Segment, q_LNH: Tensor, k_LNH: Tensor, v_LNH: Tensor, scale: float | None
    ) -> Tensor:
        if not segment.run.document:
            return torch.zeros_like(v_LNH)
        if segment.block is None:
            q, k, v = q_LNH[None], k_LNH[None], v_LNH[None]
        else:
            q = _blocks(q_LNH, segment.block)
            k, v = (_beside(x_LNH, segment.block, self.causal) for x_LNH in (k_LNH, v_LNH))
        y = attend(q, k, v, scale, segment.mask, self.causal, empty=False)
        return y.flatten(0, 1)[: len(q_LNH)]


def segments(pattern: Pattern, runs: Sequence[Run], x_BQD: Tensor) -> Segments:
    """Return the kernel for these documents of x_BQD, which attends to itself."""
    near = cache(lambda length: _near(pattern, length, x_BQD))
    near_blocks = cache(lambda length, block: _near_blocks(pattern, length, block, x_BQD))
    documents = [run for run in runs if run.document]
    bias = pattern.bias_BNQT
    if bias is not None:
        squares: Sequence[Tensor] = _Squares.apply(bias.type_as(x_BQD), documents)  # type: ignore[no-untyped-call]
        biases = dict(zip(documents, squares, strict=True))

    def segment(run: Run) -> Segment:
        if not run.document:
            return Segment(run)
        if bias is not None or pattern.prefix_BT is not None:
            mask = near(run.length) if pattern.prefix_BT is None else _near(pattern, run.length, x_BQD, run)
            return Segment(run, mask if bias is None else biases[run] + mask)
        if pattern.window is None or run.length <= pattern.window + 1:
            return Segment(run)
        block = max(pattern.window, LEAST_BLOCK)
        if run.length <= SQUARE_BLOCKS * block:
            return Segment(run, near(run.length))
        return Segment(run, near_blocks(run.length, block), block)

    return Segments([segment(run) for run in runs], pattern.causal)


def worthwhile(pattern: Pattern, runs: Sequence[Run], x_BQD: Tensor) -> bool:
    """Return whether the pairs of tokens that are spared outweigh the calls, on a CPU."""
    rows, queries, hidden = x_BQD.shape
    widest = queries
    if pattern.window is not None and pattern.bias_BNQT is None and pattern.prefix_BT is None:
        widest = SQUARE_BLOCKS * max(pattern.window, LEAST_BLOCK)
    lengths = [run.length for run in runs if run.document]
    spared = rows * queries**2 - sum(length * min(length, widest) for length in lengths)
    return spared * hidden >= CALL_COST * len(lengths)


def _near(pattern: Pattern, length: int, x_BQD: Tensor, run: Run | None = None) -> Tensor:
    place_L = torch.arange(length, device=x_BQD.device)
    prefix_L = None
    if run is not None and pattern.prefix_BT is not None:
        prefix_L = pattern.prefix_BT.flatten()[run.start : run.start + length]
    near_LL = pattern.near(place_L[:, None], place_L, prefix_L)
    return torch.where(near_LL, x_BQD.new_zeros(()), -torch.inf)[None, None]


def _near_blocks(pattern: Pattern, length: int, block: int, x_BQD: Tensor) -> Tensor:
    query_CS = torch.arange(length + -length % block, device=x_BQD.device).view(-1, block)
    beside_W = torch.arange(-block, block if pattern.causal else 2 * block, device=x_BQD.device)
    key_CW = query_CS[:, :1] + beside_W
    query_CS1, key_C1W = query_CS[:, :, None], key_CW[:, None]
    # What fills up the last block sees what fills it up: no row is empty.
    inside = ((key_C1W >= 0) & (key_C1W < length)) | (query_CS1 >= length)
    near_CSW = pattern.near(query_CS1, key_C1W) & inside
    return torch.where(near_CSW, x_BQD.new_zeros(()), -torch.inf)[:, None]


def _blocks(x_LNH: Tensor, block: int) -> Tensor:
    """Return x_CSNH, filled up with zeros."""
    filled_LNH = F.pad(x_LNH, (0, 0, 0, 0, 0, -len(x_LNH) % block))
    return filled_LNH.view(-1, block, *x_LNH.shape[1:])


def _beside(x_LNH: Tensor, block: int, causal: bool) -> Tensor:
    """Return x_CWNH: each block, the one before it and, unless it is the future, the one after."""
    sides = 1 if causal else 2
    x = _blocks(F.pad(x_LNH, (0, 0, 0, 0, block, block * (sides - 1))), block)
    return torch.cat([x[side : len(x) - sides + side] for side in range(sides + 1)], dim=1)


class _Squares(torch.autograd.Function):
    """Each document's part of a bias; together they fill one gradient, where slices would fill one each."""

    @staticmethod
    def forward(ctx: Any, bias_BNTT: Tensor, documents: Sequence[Run]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.documents = bias_BNTT.shape, documents
        return tuple(bias_BNTT[_place(run, bias_BNTT.shape)] for run in documents)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient_BNTT = gradients[0].new_zeros(ctx.shape)
        for run, gradient in zip(ctx.documents, gradients, strict=True):
            gradient_BNTT[_place(run, ctx.shape)] += gradient
        return gradient_BNTT, None


def _place(run: Run, shape: Sequence[int]) -> tuple[slice, ...]:
    row, start = divmod(run.start, shape[-1])
    row %= shape[0]
    span = slice(start, start + run.length)
    return slice(row, row + 1), slice(None), span, span
