"""What a rank owns at ZeRO stage 3: parts of parameters in flat groups, which may be swapped to a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lumbre.distributed import World
from lumbre.engine.base import Fragment, Read, trained
from lumbre.optim import OptimizerConfig


class Partitions:
    """This rank's parts of master weights and optimizer state; a group at a time is in memory."""

    def __init__(self, module: nn.Module, zero: Any, config: OptimizerConfig, world: World) -> None:
        self._module = module
        self._zero = zero
        """DeepSpeed's optimizer of stage 3."""
        self._config = config
        self._world = world

    def fragments(self) -> Iterator[Fragment]:
        """Yield the parts, each valid until the next is asked for."""
        names = self._names()
        for index, flat in self._groups():
            with self._resident(index, flat):
                for parameter in self._zero.fp16_groups[index]:
                    start, stop = self._part(parameter)
                    if start < stop:
                        tensors = {
                            key: self._view(flat, parameter, key)[: stop - start] for key in self._kinds
                        }
                        yield Fragment(names[id(parameter)][0], tuple(parameter.ds_shape), start, tensors)

    @torch.no_grad()
    def restore(self, read: Read, step: int) -> None:
        """Set the parts, the step counters and the forward pass's own copy of the weights."""
        names = self._names()
        self._zero._partition_all_parameters()
        for index, flat in self._groups():
            with self._resident(index, flat, step):
                for parameter in self._zero.fp16_groups[index]:
                    start, stop = self._part(parameter)
                    for key in self._kinds if start < stop else ():
                        part = read(key, names[id(parameter)][0], start, stop)
                        self._view(flat, parameter, key)[: stop - start].copy_(part)
                self._zero._reassign_or_swap_out_partitioned_parameters(index)
        if self._zero.persistent_parameters:
            kept = self._zero.persistent_parameters
            kept[0].all_gather(kept)

    def whole(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each name and the float32 tensor it stands for, gathered in turn; every rank takes all."""
        names = self._names()
        for index, flat in self._groups():
            with self._resident(index, flat):
                for parameter in self._zero.fp16_groups[index]:
                    tensor = self._zero._fp32_state_allgather(parameter, self._view(flat, parameter, "param"))
                    for name in names[id(parameter)]:
                        yield name, tensor

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("param", *self._config.state_names)

    def _names(self) -> dict[int, list[str]]:
        """Return the names of each parameter that trains, by its id; the first is a checkpoint's."""
        names = {id(parameter): [name] for name, parameter in trained(self._module)}
        for name, parameter in self._module.named_parameters(remove_duplicate=False):
            if id(parameter) in names and name not in names[id(parameter)]:
                names[id(parameter)].append(name)
        return names

    def _groups(self) -> Iterator[tuple[int, torch.Tensor]]:
        yield from enumerate(self._zero.fp32_partitioned_groups_flat)

    @contextmanager
    def _resident(self, index: int, flat: torch.Tensor, step: int | None = None) -> Iterator[None]:
        """Have a group's master weights and state in memory, the state that of `step` where one is given.

        Torch makes the state only at the first step. What has changed goes back to the disk.
        """
        swapped = self._zero._swappable_optimizer_subgroup(index)
        if swapped:
            self._zero._optimizer_states_and_gradient_swap_in(index)
        changed = step is not None or not self._zero.optimizer.state[flat]
        if changed:
            self._reset(flat, step or 0)
        try:
            yield
        finally:
            if swapped and changed:
                self._zero._optimizer_states_and_gradient_swap_out(index)
            elif swapped:
                self._zero._release_swap_buffers(index)

    def _reset(self, flat: torch.Tensor, step: int) -> None:
        """Set the state to what it is before the first step, its counter at `step`."""
        state = self._zero.optimizer.state
        fresh = self._config.initial_state(flat, step)
        for name in self._config.state_names:
            if name in state[flat]:
                # The swapper knows these tensors, and no others.
                fresh[name] = state[flat][name].copy_(fresh[name])
        state[flat] = fresh

    def _part(self, parameter: Any) -> tuple[int, int]:
        size = parameter.partition_numel()
        start = size * self._world.rank
        return start, min(start + size, parameter.ds_numel)

    def _view(self, flat: torch.Tensor, parameter: Any, key: str) -> torch.Tensor:
        """Return this rank's part of a parameter's master weights or state, its padding included."""
        _, offset, numel = self._zero.grad_position[self._zero.get_param_id(parameter)]
        whole = flat if key == "param" else self._zero.optimizer.state[flat][key]
        view: torch.Tensor = whole.detach().narrow(0, offset, numel)
        return view
