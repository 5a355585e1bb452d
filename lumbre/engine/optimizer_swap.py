"""Gradients of ZeRO stage 3 on their way to a disk, cut where a direct read can put them back."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

Pieces = tuple[list[Tensor], list[int]]


def align(swapper: Any) -> None:
    """Have DeepSpeed's swapper of optimizer state write of a gradient what begins and ends on a boundary.

    DeepSpeed 0.19 sees to the end alone (OptimizerSwapper._adjust_for_misaligned_lengths). Where those before
    it in its group are no multiple of a block it reads a gradient to an address that the disk refuses, in
    silence, and the update takes what was in that memory.
    """
    swapper._adjust_for_misaligned_lengths = partial(aligned, block=swapper.numel_alignment)


def aligned(tensors: Sequence[Tensor], offsets: Sequence[int], block: int) -> Pieces:
    """Cut flat tensors that lie at `offsets` at the first and at the last multiple of `block` elements.

    What is before and behind is less than a block, a copy of its own, and stays in memory.
    """
    pieces: list[Tensor] = []
    places: list[int] = []
    for tensor, offset in zip(tensors, offsets, strict=True):
        first = min(-offset % block, tensor.numel())
        last = first + (tensor.numel() - first) // block * block
        for start, stop in ((0, first), (first, last), (last, tensor.numel())):
            if start < stop:
                piece = tensor[start:stop]
                pieces.append(piece if start == first else piece.clone())
                places.append(offset + start)
    return pieces, places
