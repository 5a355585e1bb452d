"""Fresh weights drawn later, one parameter at a time: no process need have a model whole to share it out.

What modules do to their parameters while they are built is noted, on the meta device, and done afterwards in
an order that keeps each random number where it was: the weights are those of a model built as usual.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DRAWS = ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_")
"""Operations that draw random numbers, each for every element of the tensor."""
FILLS = ("zero_", "fill_", "constant_")
"""Operations that set every element, without any."""
REPLACED = "replaced"
"""What a step is called that sets every element to what is read from elsewhere."""
IN_PLACE = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")
"""Operations in place whose names do not end as such."""


@dataclass(frozen=True)
class _View:
    """A part of a parameter's storage."""

    storage: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def of(self, whole: Tensor) -> Tensor:
        return whole.as_strided(self.shape, self.stride, self.offset)


@dataclass(frozen=True)
class _Step:
    """One operation in place on a parameter, or on a part of it."""

    function: Callable[..., Any]
    name: str
    on: _View
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, whole: Tensor) -> None:
        def real(one: Any) -> Any:
            return one.of(whole) if isinstance(one, _View) else one

        self.function(*map(real, self.args), **{key: real(one) for key, one in self.kwargs.items()})


class Deferred:
    """What has been noted of the weights of a model that was built inside `deferring`."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._tensors: dict[int, Tensor] = {}
        """What is to have data, by its storage; kept, so that no other is taken for one that is gone."""
        self._generator = torch.get_rng_state()

    def note(self, tensor: Tensor) -> None:
        """Take a new tensor without data for a parameter that is to be."""
        self._tensors[_storage(tensor)] = tensor

    def has(self, value: object) -> bool:
        """Whether a value is such a parameter, or a view of one."""
        return isinstance(value, Tensor) and value.is_meta and _storage(value) in self._tensors

    def add(self, function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> None:
        """Note an operation in place on its first argument."""
        on, *others = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        if any(not self.has(other) or _storage(other) != _storage(on) for other in others):
            raise RuntimeError(f"{name}: weights that are drawn later cannot be set from others")
        args, kwargs = tree_map(lambda one: _view(one) if isinstance(one, Tensor) else one, (args, kwargs))
        self._steps.append(_Step(function, name, _view(on), args, kwargs))

    def replace(self, tensor: Tensor, value: Callable[[], Tensor]) -> None:
        """Have a tensor that is drawn later be what `value` returns then; random numbers stay in step."""

        def replaced(whole: Tensor) -> Tensor:
            return whole.copy_(value())

        assert self.has(tensor)
        self._steps.append(_Step(replaced, REPLACED, _view(tensor), (_view(tensor),), {}))

    @torch.no_grad()
    def settle(self, model: nn.Module) -> Iterator[nn.Parameter]:
        """Yield each parameter when its weights are there; they are lent: the next are drawn in their place.

        The generator must be as it was when the model was built, and is left as if it had been drawn then.
        """
        assert torch.equal(self._generator, torch.get_rng_state()), "random numbers were drawn in between"
        assert not any(one.is_meta for one in model.buffers()), "a buffer is made by torch.empty"
        steps: dict[int, list[_Step]] = {key: [] for key in self._tensors}
        for step in self._steps:
            steps[step.on.storage].append(step)
        parameters = {_storage(one): one for one in model.parameters() if one.is_meta}
        room = _Room(max(one.numel() for one in self._tensors.values()))
        rest = {key: _Rest(one, steps[key], room) for key, one in parameters.items()}
        for step in self._steps:
            key = step.on.storage
            if key not in parameters:
                # Another parameter has taken its place, as where embeddings are tied.
                if step.name in DRAWS:
                    with room.lent(self._tensors[key].shape) as whole:
                        step.run(whole)
            elif key in rest and rest[key].advance(step):
                yield from rest.pop(key).finish()


class _Room:
    """Memory for the largest parameter: if each had its own, holes would stay that the next does not fit."""

    def __init__(self, numel: int) -> None:
        self._memory = torch.empty(numel)
        self._taken = False

    @contextmanager
    def lent(self, shape: torch.Size) -> Iterator[Tensor]:
        """Lend it; a second one at a time gets memory of its own."""
        if self._taken:
            yield torch.empty(shape)
            return
        self._taken = True
        try:
            yield self._memory[: shape.numel()].view(shape)
        finally:
            self._taken = False


class _Rest:
    """A parameter on its way to its weights: what was set before it is set anew need not be kept."""

    def __init__(self, parameter: nn.Parameter, steps: list[_Step], room: _Room) -> None:
        self._parameter, self._steps, self._room = parameter, steps, room
        anew = [index for index, step in enumerate(steps) if self._sets_all(step)]
        assert anew, "a parameter is not drawn"
        self._last = anew[-1]
        self._left = sum(step.name in DRAWS for step in steps)
        self._at = 0
        self._held = ExitStack()
        self._real: Tensor | None = None

    def advance(self, step: _Step) -> bool:
        """Do the next operation if it draws, so that all draw in their order; return whether it was the last.

        What does not draw can wait until then.
        """
        if step.name in DRAWS:
            while self._steps[self._at] is not step:
                self._do(self._steps[self._at])
            self._do(step)
            self._left -= 1
        return self._left == 0

    def finish(self) -> Iterator[nn.Parameter]:
        """Do what is left; yield the parameter with its weights."""
        for step in self._steps[self._at :]:
            self._do(step)
        assert self._real is not None
        new = nn.Parameter(self._real, self._parameter.requires_grad)
        swap: Any = torch.utils.swap_tensors
        swap(self._parameter, new)
        with self._held:
            yield self._parameter

    def _do(self, step: _Step) -> None:
        if self._at == self._last:
            self._real = self._held.enter_context(self._room.lent(self._parameter.shape))
        if self._real is not None:
            step.run(self._real)
        elif step.name in DRAWS:
            with self._room.lent(self._parameter.shape) as whole:
                step.run(whole)
        self._at += 1

    def _sets_all(self, step: _Step) -> bool:
        return step.name in (*DRAWS, *FILLS, REPLACED) and step.on.shape == self._parameter.shape


class _Noting(TorchFunctionMode):
    """Makes empty tensors without data, and notes what is done to them."""

    def __init__(self, deferred: Deferred) -> None:
        super().__init__()
        self._deferred = deferred

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            out = func(*args, **{**kwargs, "device": "meta"})
            self._deferred.note(out)
            return out
        name = func.__name__
        ours = any(map(self._deferred.has, tree_flatten((args, kwargs))[0]))
        if (name in DRAWS and not ours) or func in (torch.rand, torch.randn, torch.randint, torch.normal):
            raise RuntimeError(f"{name}: only weights made by torch.empty can be drawn later")
        if ours and ((name.endswith("_") and not name.endswith("__")) or name in IN_PLACE):
            self._deferred.add(func, name, args, kwargs)
            return None if name == "__setitem__" else (args or tuple(kwargs.values()))[0]
        out = func(*args, **kwargs)
        if ours and isinstance(out, Tensor) and not self._deferred.has(out):
            raise RuntimeError(f"{name}: reads weights that are drawn later")
        return out


@contextmanager
def deferring() -> Iterator[Deferred]:
    """Build a model in this context, and its weights are drawn when `settle` is called.

    Raises RuntimeError where weights are read, or set from others: such a model has to be built as usual.
    """
    deferred = Deferred()
    plain = nn.init.trunc_normal_

    def trunc_normal_(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # torch's own says nothing where a tensor has no data, and would not be noted.
        deferred.add(plain, "trunc_normal_", (tensor, *args), kwargs)
        return tensor

    nn.init.trunc_normal_ = trunc_normal_
    try:
        with _Noting(deferred):
            yield deferred
    finally:
        nn.init.trunc_normal_ = plain


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view(tensor: Tensor) -> _View:
    return _View(_storage(tensor), tensor.shape, tensor.stride(), int(tensor.storage_offset()))
