"""Tensor parallelism: ranks share the matrices of each block (Shoeybi et al., 2019, arXiv:1909.08053).

Each has some of the heads and some of the MLP's width. What a block reads and what it gives is whole, and
the same on all of these ranks; so is all else that they compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed._functional_collectives
import torch.nn.functional as F
from torch import Tensor, nn

from lumbre.models.share import Share

collectives: Any = torch.distributed._functional_collectives
"""torch's collectives that the compiler sees through."""


@dataclass(frozen=True)
class TensorParallel:
    """This rank's place among those that share matrices. One rank by itself has the whole of them."""

    rank: int = 0
    size: int = 1
    group_name: str = ""
    """The process group's name, by which torch's functional collectives know it; a name can be copied."""

    def heads(self, number: int) -> slice:
        """Return which of so many heads this rank has."""
        share = number // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over these ranks; no gradient goes through it."""
        total: Tensor = collectives.wait_tensor(
            collectives.all_reduce(x.contiguous(), "sum", self.group_name)
        )
        return total


class SharedLinear(nn.Linear):
    """A linear map of which this rank has a part."""

    tensor: TensorParallel
    shares: dict[str, tuple[Share, ...]]
    """What each rank has of each parameter that is shared out."""

    def _take(self, whole: nn.Linear, tensor: TensorParallel, shares: dict[str, tuple[Share, ...]]) -> None:
        """Become this rank's part of a map, with its own parameters where they are not shared out."""
        nn.Module.__init__(self)
        self.tensor, self.shares = tensor, shares
        for name in ("weight", "bias"):
            parameter = getattr(whole, name)
            if name in shares:
                own = shares[name][tensor.rank].cut(parameter.detach())
                parameter = nn.Parameter(own, requires_grad=parameter.requires_grad)
            self.register_parameter(name, parameter)
        self.out_features, self.in_features = self.weight.shape


class ColumnLinear(SharedLinear):
    """Some outputs of a linear map, of all inputs; the same number of each of `parts`."""

    def __init__(self, whole: nn.Linear, parts: Sequence[int], tensor: TensorParallel) -> None:
        names = ["weight"] if whole.bias is None else ["weight", "bias"]
        shares = {
            name: tuple(
                Share.of(getattr(whole, name).shape, 0, parts, rank, tensor.size)
                for rank in range(tensor.size)
            )
            for name in names
        }
        self._take(whole, tensor, shares)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to this rank's outputs; x's gradient is the sum of what every rank makes of it."""
        x = _Entering.apply(x, self.tensor)  # type: ignore[no-untyped-call]
        return super().forward(x)


class RowLinear(SharedLinear):
    """All outputs of a linear map, whose inputs the ranks have a part of each; the bias is added once."""

    def __init__(self, whole: nn.Linear, tensor: TensorParallel) -> None:
        shape = whole.weight.shape
        shares = tuple(Share.of(shape, 1, (shape[1],), rank, tensor.size) for rank in range(tensor.size))
        self._take(whole, tensor, {"weight": shares})

    def forward(self, x: Tensor) -> Tensor:
        """Map this rank's inputs to y [..., out], the same on every rank."""
        y: Tensor = _Leaving.apply(F.linear(x, self.weight), self.tensor)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.type_as(y)


class _Entering(torch.autograd.Function):
    """What every rank has, on its way into maps that they have parts of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tensor: TensorParallel) -> Tensor:
        ctx.tensor = tensor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.tensor.sum(gradients[0]), None


class _Leaving(torch.autograd.Function):
    """What the ranks have a summand of each, on its way back to what every rank has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tensor: TensorParallel) -> Tensor:
        return tensor.sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None
