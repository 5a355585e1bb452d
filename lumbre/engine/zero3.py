"""What a rank owns at ZeRO stage 3: parts of parameters in flat groups, which may be swapped to a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lumbre.distributed import World
from lumbre.engine.base import Fragment, Read, trained
from lumbre.optim import OptimizerConfig, Piece


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
                            key: self._view(flat, parameter, key)[: stop - start]
                            for key in self._kinds(index)
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
                    for key in self._kinds(index) if start < stop else ():
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

    def pieces(self) -> list[tuple[torch.Tensor, list[Piece]]]:
        """Return this rank's flat tensors, and what lies in them."""
        names = self._names()
        return [
            (flat, [self._piece(names[id(one)][0], one) for one in self._zero.fp16_groups[index]])
            for index, flat in self._groups()
        ]

    def _piece(self, name: str, parameter: Any) -> Piece:
        start, stop = self._part(parameter)
        _, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
        return Piece(name, tuple(parameter.ds_shape), start, offset, max(0, stop - start))

    def _states(self, index: int) -> tuple[str, ...]:
        """Return the names of the state of a flat group."""
        group = self._zero.optimizer.param_groups[self._zero.sub_group_to_group_id[index]]
        states: tuple[str, ...] = group["states"]
        return states

    def _kinds(self, index: int) -> tuple[str, ...]:
        return ("param", *self._states(index))

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
            self._reset(index, flat, step or 0)
        try:
            yield
        finally:
            if swapped and changed:
                self._zero._optimizer_states_and_gradient_swap_out(index)
            elif swapped:
                self._zero._release_swap_buffers(index)

    def _reset(self, index: int, flat: torch.Tensor, step: int) -> None:
        """Set the state to what it is before the first step, its counter at `step`."""
        state = self._zero.optimizer.state
        states = self._states(index)
        fresh = self._config.initial_state(flat, step, states)
        for name in states:
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
