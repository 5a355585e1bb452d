"""Which part of a parameter a rank has, where ranks share out its rows or its columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Of a parameter of `shape`, what is in `ranges` along dimension `dim`, one range after the other."""

    shape: tuple[int, ...]
    dim: int
    ranges: tuple[tuple[int, int], ...]
    """Begin and end of each, ascending; several where one matrix stands for several maps."""

    @classmethod
    def of(cls, shape: Sequence[int], dim: int, parts: Sequence[int], rank: int, size: int) -> "Share":
        """Return the share of `rank` of `size`, an equal part of each of `parts` of the dimension."""
        ends = [sum(parts[: index + 1]) for index in range(len(parts))]
        starts = [end - part + part // size * rank for end, part in zip(ends, parts, strict=True)]
        ranges = tuple((start, start + part // size) for start, part in zip(starts, parts, strict=True))
        return cls(tuple(shape), dim, ranges)

    @property
    def width(self) -> int:
        """How far the share goes along its dimension."""
        return sum(end - start for start, end in self.ranges)

    def cut(self, whole: Tensor) -> Tensor:
        """Return the share of a whole parameter, in memory of its own."""
        return torch.cat([whole.narrow(self.dim, start, end - start) for start, end in self.ranges], self.dim)

    def put(self, own: Tensor, whole: Tensor) -> None:
        """Write the share, in its own shape or flat, to its places in a whole parameter."""
        own = own.view(*self.shape[: self.dim], self.width, *self.shape[self.dim + 1 :])
        parts = torch.split(own, [end - start for start, end in self.ranges], self.dim)
        for (start, end), part in zip(self.ranges, parts, strict=True):
            whole.narrow(self.dim, start, end - start).copy_(part)

    def before(self, position: int) -> int:
        """Return how many of the share's elements come before element `position` of the flat parameter."""
        period, ranges = self._flat()
        whole, rest = divmod(position, period)
        width = sum(end - start for start, end in ranges)
        return whole * width + sum(min(max(rest - start, 0), end - start) for start, end in ranges)

    def places(self, start: int, stop: int) -> Tensor:
        """Return where in the flat parameter elements [start, stop) of the flat share are, ascending."""
        period, ranges = self._flat()
        begins = torch.tensor([begin for begin, _ in ranges])
        ends = torch.tensor([end - begin for begin, end in ranges]).cumsum(0)
        width = int(ends[-1])
        index = torch.arange(start, stop)
        rest = index % width
        which = torch.searchsorted(ends, rest, right=True)
        skipped = begins - torch.cat([ends.new_zeros(1), ends[:-1]])
        return index // width * period + rest + skipped[which]

    def _flat(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the ranges of flat elements, which repeat after every so many."""
        inner = prod(self.shape[self.dim + 1 :])
        return self.shape[self.dim] * inner, [(start * inner, end * inner) for start, end in self.ranges]
