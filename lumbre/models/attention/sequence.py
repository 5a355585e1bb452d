"""DeepSpeed-Ulysses: ranks share each row, a part of its tokens each (Jacobs et al., 2023, arXiv:2309.14509).

Around attention, ranks exchange all heads of some tokens for all tokens of some heads, by one all-to-all
each way, so that any kernel serves as it is. Shapes: B batch, T tokens of the whole row and t of a part, Q
queries, G ranks of the group, N heads and n of a rank, K key/value heads, H head size, S rows together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed._functional_collectives
from torch import Tensor

from lumbre.models.attention.kernel import Kernel

collectives: Any = torch.distributed._functional_collectives
"""torch's collectives that autograd and the compiler see through."""


@dataclass(frozen=True)
class SequenceParallel:
    """This rank's part of each row. One rank by itself has the whole of it, and exchanges nothing."""

    rank: int = 0
    size: int = 1
    group_name: str = ""
    """The process group's name, by which torch's functional collectives know it; a name can be copied."""

    def whole(self, *parts_Bt: Tensor | None) -> list[Tensor | None]:
        """Return whole rows of whole numbers or flags [B, T] from every rank's part of them; None stays.

        One exchange for all of them; no gradient goes through it.
        """
        given = [part_Bt for part_Bt in parts_Bt if part_Bt is not None]
        if self.size == 1 or not given:
            return list(parts_Bt)
        B = max(len(part_Bt) for part_Bt in given)
        parts_1SBt = torch.stack([part_Bt.long().expand(B, -1) for part_Bt in given])[None]
        rows_GSBt = collectives.wait_tensor(collectives.all_gather_single(parts_1SBt, 0, self.group_name))
        rows_SBT = rows_GSBt.movedim(0, 2).flatten(2)
        whole = iter(row_BT.to(part_Bt.dtype) for row_BT, part_Bt in zip(rows_SBT, given, strict=True))
        return [None if part_Bt is None else next(whole) for part_Bt in parts_Bt]

    def part(self, row_BT: Tensor) -> Tensor:
        """Return this rank's part of whole rows."""
        length = row_BT.shape[1] // self.size
        return row_BT[:, self.rank * length : (self.rank + 1) * length]

    def heads(self, number: int) -> slice:
        """Return which of so many heads this rank attends with."""
        share = number // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def shaped(self, x_BtD: Tensor) -> Tensor:
        """Return a tensor without content in the shape, dtype and place of what a kernel will be given."""
        if self.size == 1:
            return x_BtD
        B, t, D = x_BtD.shape
        return x_BtD.new_empty(()).expand(B, t * self.size, D // self.size)

    def kernel(self, kernel: Kernel) -> Kernel:
        """Return the kernel for parts, given that for whole rows."""
        if self.size == 1:
            return kernel
        return Ulysses(kernel, self)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the ranks that share rows; the gradient is summed as well."""
        if self.size == 1:
            return x
        total: Tensor = collectives.wait_tensor(collectives.all_reduce(x, "sum", self.group_name))
        return total


@dataclass(frozen=True)
class Ulysses:
    """A kernel on whole rows with some of the heads, for parts of rows with all of them."""

    kernel: Kernel
    sequence: SequenceParallel

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH; here Q and T are those of the part."""
        size = self.sequence.size
        # Where key/value heads cannot be shared out: as few copies as can, a rank's with their queries.
        copies = size // math.gcd(k_BTKH.shape[2], size)
        if copies > 1:
            k_BTKH, v_BTKH = (x_BTKH.repeat_interleave(copies, dim=2) for x_BTKH in (k_BTKH, v_BTKH))
        sent = [_by_heads(x_BTNH, size) for x_BTNH in (q_BQNH, k_BTKH, v_BTKH)]
        q, k, v = map(_rows, _exchanged(sent, self.sequence))
        (y_GBQNH,) = _exchanged([_by_tokens(self.kernel(q, k, v, scale), size)], self.sequence)
        return y_GBQNH.permute(1, 2, 0, 3, 4).flatten(2, 3)


def _by_heads(x_BtNH: Tensor, size: int) -> Tensor:
    """Return what each rank is sent of a part: some heads of every token, x_GBtnH."""
    return torch.unflatten(x_BtNH, 2, (size, -1)).permute(2, 0, 1, 3, 4)


def _rows(x_GBtnH: Tensor) -> Tensor:
    """Return whole rows x_BTnH of what each rank has sent."""
    return x_GBtnH.transpose(0, 1).flatten(1, 2)


def _by_tokens(x_BTnH: Tensor, size: int) -> Tensor:
    """Return what each rank is sent of whole rows: some tokens of every head, x_GBtnH."""
    return torch.unflatten(x_BTnH, 1, (size, -1)).transpose(0, 1)


def _exchanged(sent: Sequence[Tensor], sequence: SequenceParallel) -> list[Tensor]:
    """Send the g-th of each tensor's first dimension to rank g, all tensors at once; return what came."""
    flat = torch.cat([x.flatten(1) for x in sent], dim=1)
    came = collectives.wait_tensor(collectives.all_to_all_single(flat, None, None, sequence.group_name))
    sizes = [x[0].numel() for x in sent]
    return [part.view(x.shape) for part, x in zip(came.split(sizes, dim=1), sent, strict=True)]
