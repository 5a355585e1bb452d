"""The accelerate engine: one CPU, one GPU, Apple silicon or plain DDP, through Hugging Face Accelerate."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from lumbre import distributed
from lumbre.engine.base import EngineConfig, Fragment, Read, assert_layout, autocast, even_slice, trained
from lumbre.engine.compute import set_up
from lumbre.engine.gradient import clip
from lumbre.errors import Problem
from lumbre.models.deferred import Deferred
from lumbre.models.fused import fused_rows
from lumbre.optim import OptimizerConfig, set_learning_rate, states_of
from lumbre.world import as_one_process


class AccelerateConfig(EngineConfig):
    """Accelerate: one device, or data parallel with every rank holding the whole model."""

    type: Literal["accelerate"] = "accelerate"
    """The engine's name."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """Every rank holds everything; other stages are engine.type=deepspeed."""

    def problems(self) -> Iterator[Problem]:
        """Report a stage of ZeRO, and matrices that ranks would share."""
        yield from super().problems()
        if self.tensor_parallel > 1:
            fault = "every rank has the whole model with accelerate"
            yield Problem("tensor_parallel", fault, "use engine.type=deepspeed, or 1")
        if self.zero_stage:
            remedy = "use engine.type=deepspeed, which has ZeRO"
            yield Problem("zero_stage", f"should be 0, got {self.zero_stage}", remedy)

    def build(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        micro_batch_size: int,
        weights: Deferred | None = None,
    ) -> "AccelerateEngine":
        """Wrap the model in DDP where there are several ranks."""
        assert weights is None, "every rank holds everything"
        return AccelerateEngine(model, optimizer, self)


class AccelerateEngine:
    """Data parallel training; the reference that other layouts are tested against."""

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, config: AccelerateConfig) -> None:
        from accelerate import Accelerator

        self.device = distributed.device()
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.module = model.to(self.device, dtype)
        set_up(self.module, config)
        self._config = optimizer
        # cpu=True or Accelerate runs as many independent jobs as there are ranks, silently.
        # One rank alone, as an agent may start it or be left with, is no data parallel job either.
        with as_one_process() if distributed.world().size == 1 else nullcontext():
            self._accelerator = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")
        self._precision = config.precision
        self._optimizer = optimizer.build(self.module.named_parameters(), fused_rows(self.module))
        self._model = self._accelerator.prepare_model(self.module)
        expected = nn.parallel.DistributedDataParallel if distributed.world().size > 1 else type(model)
        self._world = assert_layout(
            self._accelerator.num_processes, engine="accelerate", built=self._model, expected=expected
        )
        self._trained = [parameter for _, parameter in trained(self.module)]
        if self._world.size > 1:
            self._settle()

    def _settle(self) -> None:
        """Have DDP order its buckets now, by a backward pass of zeros.

        It would after the first step, and so sum the gradients of that step over ranks in another order
        than those of later ones: a run that goes on would not repeat one that never stopped.
        """
        self._model.reducer.prepare_for_backward([])
        torch.autograd.backward(
            torch.stack([parameter.flatten()[0] for parameter in self._trained]).sum().mul(0)
        )
        self._optimizer.zero_grad()

    def forward(self) -> nn.Module:
        """Return the model as Accelerate prepared it."""
        return self._model  # type: ignore[no-any-return]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return torch's autocast for the precision."""
        return autocast(self.device, self._precision)

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """Hold DDP's reduction back until the last micro batch."""
        return nullcontext() if last else self._accelerator.no_sync(self._model)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient; DDP takes the mean over ranks, so the loss is scaled to give the sum."""
        self._accelerator.backward(loss * self._world.size)

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear; return the global norm. Nothing is updated where that is not finite."""
        limit = self._config.gradient_clipping or float("inf")
        norm = clip(self._trained, limit)
        if math.isfinite(norm):
            set_learning_rate(self._optimizer, learning_rate)
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def fragments(self) -> Iterator[Fragment]:
        """Yield this rank's even share of every parameter that trains."""
        states = states_of(self._optimizer)
        for name, parameter in trained(self.module):
            start, stop = even_slice(parameter.numel(), self._world.rank, self._world.size)
            tensors = {"param": parameter.detach().flatten()[start:stop]}
            # A parameter that the loss has not reached yet has no state.
            state = self._optimizer.state.get(parameter) or self._config.initial_state(
                parameter, 0, states[parameter]
            )
            for key in states[parameter]:
                tensors[key] = state[key].flatten()[start:stop]
            yield Fragment(name, tuple(parameter.shape), start, tensors)

    @torch.no_grad()
    def restore(self, read: Read, step: int) -> None:
        """Read every parameter that trains whole, for every rank holds all of it."""
        states = states_of(self._optimizer)
        for name, parameter in trained(self.module):
            parameter.copy_(read("param", name, 0, parameter.numel()).view_as(parameter))
            state = self._config.initial_state(parameter, step, states[parameter])
            for key in states[parameter]:
                state[key].copy_(read(key, name, 0, parameter.numel()).view_as(parameter))
            self._optimizer.state[parameter] = state

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the parameters that train, which every rank has whole."""
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                yield name, parameter.detach()

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Return the weights that train, and the buffers, on the main rank."""
        if not self._world.is_main:
            return None
        names = {
            name
            for name, parameter in self.module.named_parameters(remove_duplicate=False)
            if parameter.requires_grad
        }
        names |= {name for name, _ in self.module.named_buffers(remove_duplicate=False)}
        state = self.module.state_dict()
        return {name: tensor.detach().cpu() for name, tensor in state.items() if name in names}
