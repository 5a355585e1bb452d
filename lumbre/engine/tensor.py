"""Deals a model out to the ranks that share its matrices, and tells DeepSpeed who they are.

DeepSpeed's AutoTP puts layers of its own into a model, which leave a gradient that is not contiguous
without its sum; ours serve it as well, and ZeRO works among the ranks that have the same parts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lumbre import distributed
from lumbre.engine.gradient import norms, scale_down
from lumbre.models import Transformer
from lumbre.models.attention import Attention
from lumbre.models.deferred import Deferred
from lumbre.models.mlp import Mlp
from lumbre.models.share import Share
from lumbre.models.tensor import ColumnLinear, RowLinear, SharedLinear, TensorParallel
from lumbre.world import Place


class TensorGroup:
    """The ranks that share this rank's matrices, and those that have the same parts of them as it.

    Its methods are what DeepSpeed asks of a model-parallel unit. Every rank makes one.
    """

    def __init__(self, ranks: int) -> None:
        world = distributed.world()
        self.place = world.within_group(ranks)
        """Among the ranks that share matrices."""
        self.copies = Place(world.rank // ranks, world.size // ranks)
        """Among the ranks that have the same parts."""
        self._within = distributed.neighbours(ranks)
        self._across = distributed.counterparts(ranks)
        self.tensor = TensorParallel(self.place.index, self.place.count, self._within.group_name)

    def get_model_parallel_group(self) -> torch.distributed.ProcessGroup:
        """Return the ranks that share matrices."""
        return self._within

    def get_model_parallel_rank(self) -> int:
        """Return this rank's place among them."""
        return self.place.index

    def get_model_parallel_world_size(self) -> int:
        """Return how many they are."""
        return self.place.count

    def get_data_parallel_group(self) -> torch.distributed.ProcessGroup:
        """Return the ranks that have the same parts."""
        return self._across

    def get_data_parallel_rank(self) -> int:
        """Return this rank's place among them."""
        return self.copies.index

    def get_data_parallel_world_size(self) -> int:
        """Return how many they are."""
        return self.copies.count

    def whole(self, own: Tensor, shares: tuple[Share, ...]) -> Tensor:
        """Return the parameter that each rank has its share of; every one of them calls."""
        parts = [torch.empty_like(own) for _ in shares]
        torch.distributed.all_gather(parts, own.contiguous(), group=self._within)
        whole = own.new_empty(shares[0].shape)
        for share, part in zip(shares, parts, strict=True):
            share.put(part, whole)
        return whole

    def clip(self, parameters: Iterable[nn.Parameter], limit: float) -> float:
        """Scale gradients down to the limit of their norm, in which what all ranks have counts once."""
        parameters = list(parameters)
        squares = torch.zeros(2, dtype=torch.float64, device=parameters[0].device)
        for index in range(2):
            these = [one for one in parameters if one.grad is not None and is_shared(one) == bool(index)]
            squares[index] = (norms([one.grad for one in these if one.grad is not None]) ** 2).sum()
        norm = float((squares[0] + self.tensor.sum(squares[1])).sqrt())
        scale_down(parameters, limit, norm)
        return norm


def is_shared(parameter: nn.Parameter) -> bool:
    """Whether ranks have a part of the parameter each; DeepSpeed knows it by the same mark."""
    return getattr(parameter, "tensor_model_parallel", False)


def deal_out(
    model: nn.Module, tensor: TensorParallel, weights: Deferred | None = None
) -> Mapping[str, tuple[Share, ...]]:
    """Leave this rank its part of the model; return what each has of every parameter that is shared out.

    Of a model that waits for its `weights`, one whole parameter at a time is in memory.
    """
    wholes = dict(model.named_parameters())
    shares = _share_out(model, tensor)
    if weights is not None:
        _settle(model, wholes, shares, tensor.rank, weights)
    for name in shares:
        model.get_parameter(name).tensor_model_parallel = True  # type: ignore[attr-defined]
    for part in model.modules():
        # Each rank uses what is of its own heads.
        if isinstance(part, Transformer):
            _sum_gradients(part.position.per_head, tensor)
        if isinstance(part, Attention):
            for norm in (part.query_norm, part.key_norm):
                _sum_gradients([] if norm is None else norm.parameters(), tensor)
    return shares


def _share_out(model: nn.Module, tensor: TensorParallel) -> Mapping[str, tuple[Share, ...]]:
    """Put this rank's part of each shared map in its place; return every rank's, by parameter."""
    for part in list(model.modules()):
        match part:
            case Attention():
                _deal_out_attention(part, tensor)
            case Mlp():
                width = part.down.in_features
                part.up = ColumnLinear(part.up, (width,) * (2 if part.gated else 1), tensor)
                part.down = RowLinear(part.down, tensor)
            case Transformer():
                part.tensor = tensor
    return {
        f"{name}.{own}": of_ranks
        for name, part in model.named_modules()
        if isinstance(part, SharedLinear)
        for own, of_ranks in part.shares.items()
    }


def _settle(
    model: nn.Module,
    wholes: Mapping[str, nn.Parameter],
    shares: Mapping[str, tuple[Share, ...]],
    rank: int,
    weights: Deferred,
) -> None:
    """Give the parameters of `model`, shared out or not, their weights from the whole ones by name."""
    names = {id(whole): name for name, whole in wholes.items()}
    for whole in weights.settle(nn.ParameterList(wholes.values())):
        name = names[id(whole)]
        if name in shares:
            own = nn.Parameter(shares[name][rank].cut(whole.detach()), whole.requires_grad)
            swap: Any = torch.utils.swap_tensors
            swap(model.get_parameter(name), own)
        else:
            # Its memory is lent.
            whole.data = whole.data.clone()


def _deal_out_attention(part: Attention, tensor: TensorParallel) -> None:
    queries, keys = part.num_heads * part.head_size, part.num_kv_heads * part.head_size
    if part.qkv is not None:
        part.qkv = ColumnLinear(part.qkv, (queries, keys, keys), tensor)
    if part.query is not None and part.key_value is not None:
        part.query = ColumnLinear(part.query, (queries,), tensor)
        part.key_value = ColumnLinear(part.key_value, (keys, keys), tensor)
    part.output = RowLinear(part.output, tensor)
    part.num_heads //= tensor.size
    part.num_kv_heads //= tensor.size


def _sum_gradients(parameters: Iterable[nn.Parameter], tensor: TensorParallel) -> None:
    """Have the gradient of what every rank has, and uses for its own part alone, summed over ranks."""
    for parameter in parameters:
        if parameter.requires_grad:
            hook: Any = parameter.register_hook
            hook(tensor.sum)
