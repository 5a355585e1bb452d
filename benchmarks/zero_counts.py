"""Counts what one rank of a ZeRO run really sends, by collective, and holds, by what it is for."""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from launch.zero import Collective, ring_bytes

Measured = Callable[..., int]


def _bytes(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(map(_bytes, tensors))


def _first(one: Any, *_: Any) -> int:
    return _bytes(one)


def _second(_: Any, other: Any, *__: Any) -> int:
    return _bytes(other)


OPERATIONS: Mapping[str, tuple[Collective, Measured] | None] = {
    "allreduce_": ("all_reduce", _first),
    "allreduce_coalesced_": ("all_reduce", _first),
    "_allgather_base_": ("all_gather", _first),
    "allgather_": ("all_gather", _first),
    "allgather_coalesced_": ("all_gather", _first),
    "allgather_into_tensor_coalesced_": ("all_gather", _first),
    "_reduce_scatter_base_": ("reduce_scatter", _second),
    "reduce_scatter_": ("reduce_scatter", _second),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", _second),
    "reduce_": ("reduce", _first),
    "broadcast_": ("broadcast", _first),
    "alltoall_base_": ("all_to_all", _second),
    "barrier": None,
}
"""Each of torch's own operations: the collective, and what gives the whole's bytes from its arguments."""


class Traffic(TorchDispatchMode):
    """While entered, counts every collective that this process takes part in, from wherever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Collective] = Counter()
        self.whole: Counter[Collective] = Counter()
        """Bytes of the whole tensors: what all ranks gather or reduce together, each once."""
        self.small = 0
        """Those of `whole` in tensors of at most 64 bytes: norms, flags and the like."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective; run whatever it is."""
        space, name = func._schema.name.split("::")
        if space == "c10d":
            self._count(name, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name not in OPERATIONS:
            raise NotImplementedError(f"c10d::{name} is not counted yet: add it to OPERATIONS")
        known = OPERATIONS[name]
        if known is not None:
            collective, measure = known
            nbytes = measure(*arguments)
            self.calls[collective] += 1
            self.whole[collective] += nbytes
            self.small += nbytes if nbytes <= 64 else 0

    def sent(self, ranks: int) -> dict[Collective, float]:
        """Return the bytes that a rank sends in a ring of so many, by collective."""
        return {name: ring_bytes(name, nbytes, ranks) for name, nbytes in self.whole.items()}


@dataclass(frozen=True)
class Memory:
    """What one process holds, in bytes; each storage counts once, under the first name that has it."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: Mapping[str, int]
    """What else the engine holds, by the name that leads to it."""
    unnamed: int
    """All other tensors of the process: what no name of the engine leads to."""

    @property
    def total(self) -> int:
        """What the model, its gradient and its optimizer take."""
        return self.parameters + self.gradients + self.optimizer


def tensors_there() -> list[Tensor]:
    """Return all tensors of the process that Python knows."""
    return [one for one in gc.get_objects() if issubclass(type(one), Tensor)]


def held(module: nn.Module, zero: Any, before: Iterable[Tensor] = ()) -> Memory:
    """Count the storages of a model, its gradient and its optimizer, DeepSpeed's or torch's, as they are.

    `before` was there without them, and is kept alive by the caller.
    """
    seen = {one.untyped_storage().data_ptr() for one in before if _is_real(one)}

    def take(tensors: Iterable[Tensor]) -> int:
        total = 0
        for tensor in filter(_is_real, tensors):
            storage = tensor.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        return total

    parameters = take(_parameters(module))
    master = getattr(zero, "optimizer", zero)
    flats = [one for group in master.param_groups for one in group["params"]]
    gradients = take(_gradients(module, flats, zero))
    optimizer = take(flats) + take(_tensors([master.state, getattr(zero, MASTER, None)], set()))
    buffers = {}
    for name, value in sorted(vars(zero).items()):
        if nbytes := take(_tensors(value, set())):
            buffers[name] = nbytes
    return Memory(parameters, gradients, optimizer, buffers, take(tensors_there()))


def _is_real(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and tensor.layout == torch.strided


def _parameters(module: nn.Module) -> Iterator[Tensor]:
    for parameter in module.parameters():
        yield parameter.data
        yield from (getattr(parameter, name) for name in ("ds_tensor",) if hasattr(parameter, name))


MASTER = "fp32_partitioned_groups_flat"
"""Where its optimizer of stage 3 has the master weights of groups that torch's does not hold just then."""
GRADIENTS = ("averaged_gradients", "all_grad_tensors", "grad_partitions_flat_buffer")
"""Where DeepSpeed's optimizers have gradients beside `grad`."""


def _gradients(module: nn.Module, flats: list[Tensor], zero: Any) -> Iterator[Tensor]:
    for parameter in [*module.parameters(), *flats]:
        for name in ("grad", "grad_accum"):
            if getattr(parameter, name, None) is not None:
                yield getattr(parameter, name)
    for name in GRADIENTS:
        yield from _tensors(getattr(zero, name, None), set())


def _tensors(value: Any, visited: set[int]) -> Iterator[Tensor]:
    """Yield the tensors that containers and DeepSpeed's own objects lead to; modules are not gone into."""
    if id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in list(value.values()):
            yield from _tensors(one, visited)
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _tensors(one, visited)
    elif type(value).__module__.startswith("deepspeed.") and not isinstance(value, nn.Module):
        yield from _tensors(getattr(value, "__dict__", None), visited)
