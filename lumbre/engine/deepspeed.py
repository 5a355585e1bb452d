"""The DeepSpeed engine: ZeRO stages 0 to 3 (Rajbhandari et al., 2020, arXiv:1910.02054)."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from lumbre import distributed
from lumbre.engine import flat, optimizer_swap, raw, reduction
from lumbre.engine.base import (
    EngineConfig,
    Fragment,
    Precision,
    Read,
    assert_layout,
    autocast,
    even_slice,
    read_share,
    trained,
)
from lumbre.engine.compute import set_up
from lumbre.engine.gradient import clip
from lumbre.engine.offload import OffloadConfig
from lumbre.engine.tensor import TensorGroup, deal_out
from lumbre.engine.zero3 import Partitions
from lumbre.errors import Problem
from lumbre.models.deferred import Deferred
from lumbre.models.fused import fused_rows
from lumbre.models.share import Share
from lumbre.optim import OptimizerConfig, PiecewiseOptimizer, set_learning_rate, states_of
from lumbre.watchdog.extension_locks import clear_stale_locks, extensions_folder
from lumbre.world import Place


class DeepSpeedConfig(EngineConfig):
    """DeepSpeed ZeRO over every rank, called directly."""

    type: Literal["deepspeed"] = "deepspeed"
    """The engine's name."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What ranks share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too."""
    offload: OffloadConfig = OffloadConfig()
    """What is kept off the device: in the host's memory or on a disk."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """Raw DeepSpeed JSON keys, passed through; one that Lumbre sets itself is an error."""

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters of the forward pass are."""
        return torch.bfloat16 if self.precision == "bfloat16" and self.zero_stage else torch.float32

    def problems(self) -> Iterator[Problem]:
        """Report raw keys that contradict a key of ours, and what DeepSpeed does not have."""
        yield from super().problems()
        if self.precision == "float64":
            remedy = "use float32 or bfloat16, or engine.type=accelerate"
            yield Problem("precision", "DeepSpeed has no float64", remedy)
        if self.zero_stage == 3 and self.activation_checkpointing == "selective":
            # DeepSpeed's linear map adds the bias to the product in place, and would add it twice.
            fault = "selective keeps products, which DeepSpeed changes after the fact at stage 3"
            yield Problem("activation_checkpointing", fault, "use 1, every block, or zero_stage 2")
        if self.zero_stage == 3 and self.tensor_parallel > 1:
            fault = "stage 3 shares out parameters by themselves, and tensor_parallel has shared them already"
            yield Problem("zero_stage", fault, "use 2, or tensor_parallel: 1")
        if self.zero_stage == 3 and self.float8 != "none":
            fault = "products of 8 bits would keep what stage 3 has gathered until the backward pass"
            yield Problem("float8", fault, "use none, or zero_stage 2")
        if self.zero_stage == 3 and self.cuda_graphs:
            fault = "graphs know parameters by their place in memory, and stage 3 gathers them anew"
            yield Problem("cuda_graphs", fault, "use false, or zero_stage 2")
        for problem in self.offload.misfits(self.zero_stage):
            yield replace(problem, key=f"offload.{problem.key}")
        ours = self.json_config(micro_batch_size=1, gradient_clipping=1.0)
        for problem in raw.problems(self.deepspeed, ours):
            yield replace(problem, key=f"deepspeed.{problem.key}")

    def json_config(self, micro_batch_size: int, gradient_clipping: float) -> dict[str, Any]:
        """Return DeepSpeed's JSON config for this engine, without the raw keys."""
        mixed = self.precision == "bfloat16"
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch_size,
            # The trainer marks the boundary of accumulation itself, so that one engine serves any number.
            "gradient_accumulation_steps": 1,
            "gradient_clipping": gradient_clipping if self.zero_stage else 0.0,
            "zero_optimization": {"stage": self.zero_stage, **self.offload.zero_keys()},
            "zero_allow_untested_optimizer": True,
            # torch's fused AdamW works on the CPU as it is; DeepSpeed's own is compiled for minutes first.
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31 - 1,
        }
        if self.zero_stage != 3:
            # The loss is each rank's part of the sum.
            config["gradient_allreduce_op"] = "sum"
        if mixed and self.zero_stage:
            config["bf16"] = {"enabled": True}
            # Sums over micro batches and ranks stay float32, so that the layout does not show in them.
            config["communication_data_type"] = "fp32"
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        return config

    @property
    def defers(self) -> bool:
        """Whether no rank needs the whole model: where parameters are shared out."""
        return self.zero_stage == 3 or self.tensor_parallel > 1

    def build(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        micro_batch_size: int,
        weights: Deferred | None = None,
    ) -> "DeepSpeedEngine":
        """Initialise DeepSpeed over the process group."""
        return DeepSpeedEngine(model, optimizer, self, micro_batch_size, weights)


class DeepSpeedEngine:
    """One DeepSpeed engine; stage 0 in bfloat16 is float32 weights under autocast, as plain DDP."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        config: DeepSpeedConfig,
        micro_batch_size: int,
        weights: Deferred | None,
    ) -> None:
        deepspeed = _import()
        self.device = distributed.device()
        self._stage = config.zero_stage
        self._config = optimizer
        # DeepSpeed's own bfloat16 takes an extra optimizer step at stage 0 and so follows another curve.
        self._autocast: Precision = config.precision if self._stage == 0 else "float32"
        if not torch.distributed.is_initialized():
            _join_alone()
        self._swap = config.offload.claim(model, len(optimizer.state_names), config.dtype.itemsize)
        self._tensor = TensorGroup(config.tensor_parallel) if config.tensor_parallel > 1 else None
        self._shares = {} if self._tensor is None else deal_out(model, self._tensor.tensor, weights)
        # DeepSpeed keeps the last that it was given.
        deepspeed.utils.groups.mpu = None
        ours = config.json_config(micro_batch_size, optimizer.gradient_clipping)
        ranks = torch.distributed.get_world_size()
        path = str(self._swap.path) if self._swap is not None else ""
        largest = max(-(-one.numel() // ranks) for one in model.parameters())
        keys = raw.merged(ours, config.offload.tuning(path, largest))
        if self._stage in (1, 2):
            keys = raw.merged(keys, reduction.tuning(model, self.device, config.deepspeed))
        keys = raw.merged(keys, config.deepspeed)
        on_disk = config.offload.parameters == "disk"
        if on_disk or (weights is not None and self._stage == 3):
            from lumbre.engine.partition import partition

            partition(model, keys, config.dtype, on_disk=on_disk, weights=weights)
        model = model.to(self.device)
        set_up(model, config)
        made = optimizer.build(model.named_parameters(), fused_rows(model))
        _vouch_for(made)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=made,
            config=keys,
            dist_init_required=False,
            mpu=self._tensor,
        )
        if self._stage in (1, 2):
            reduction.shorten(self._optimizer)
        if config.offload.optimizer == "disk":
            optimizer_swap.align(self._optimizer.optimizer_swapper)
        self._world = assert_layout(
            torch.distributed.get_world_size(),
            engine="deepspeed",
            built=self._engine,
            expected=deepspeed.DeepSpeedEngine,
        )
        stage = self._engine.zero_optimization_stage()
        assert stage == self._stage, f"ZeRO stage {self._stage} was asked for, {stage} is in use"
        self.module: nn.Module = self._engine.module
        self._partitions = Partitions(self.module, self._optimizer, optimizer, self._world)
        if self._stage and isinstance(self._base, PiecewiseOptimizer):
            parts = self._partitions.pieces() if self._stage == 3 else flat.pieces(self.module, self._base)
            self._base.lay_out(parts, self.device)

    def forward(self) -> nn.Module:
        """Return DeepSpeed's engine."""
        return self._engine  # type: ignore[no-any-return]

    def autocast(self) -> AbstractContextManager[Any]:
        """Return autocast at stage 0 in bfloat16; nothing else needs it."""
        return autocast(self.device, self._autocast)

    def accumulate(self, last: bool) -> AbstractContextManager[Any]:
        """Tell DeepSpeed whether gradients are complete after this micro batch."""
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient; stage 3 takes the mean over ranks, so the loss is scaled to give the sum."""
        self._engine.backward(loss * self._world.size if self._stage == 3 else loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update and clear; return the global norm. Nothing is updated where that is not finite.

        ZeRO's optimizers see to that themselves, and call every such norm infinite.
        """
        set_learning_rate(self._optimizer, learning_rate)
        if self._stage:
            self._engine.step()
            return float(self._engine.get_global_grad_norm())
        limit = self._config.gradient_clipping or float("inf")
        if self._tensor is None:
            norm = clip(self.module.parameters(), limit)
        else:
            norm = self._tensor.clip(self.module.parameters(), limit)
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm

    def fragments(self) -> Iterator[Fragment]:
        """Yield the partition that this rank's ZeRO optimizer owns, by parameter name."""
        if self._stage == 3:
            yield from self._partitions.fragments()
            return
        self._ensure_state()
        for name, parameter in self._parameters():
            if self._stage:
                mapping = parameter._hp_mapping
                if mapping is not None:
                    keys = {"param": None, **{key: key for key in self._states(parameter)}}
                    tensors = {key: mapping.get_hp_fragment(state) for key, state in keys.items()}
                    yield self._fragment(name, parameter, mapping.lp_fragment_address.start, tensors)
            else:
                state = self._optimizer.state[parameter]
                tensors = {key: state[key].flatten() for key in self._states(parameter)}
                yield self._fragment(name, parameter, 0, {"param": parameter.detach().flatten(), **tensors})

    def _fragment(
        self, name: str, parameter: torch.Tensor, start: int, tensors: dict[str, torch.Tensor]
    ) -> Fragment:
        """Return this rank's even part of what it holds from `start` on, as some others do."""
        share = self._share(name)
        shape = tuple(parameter.shape) if share is None else share.shape
        holders = Place(self._world.rank, self._world.size)
        if self._stage:
            holders = Place(0, 1) if self._tensor is None or share is not None else self._tensor.place
        elif self._tensor is not None and share is not None:
            holders = self._tensor.copies
        first, last = even_slice(next(iter(tensors.values())).numel(), holders.index, holders.count)
        own = {key: tensor[first:last] for key, tensor in tensors.items()}
        return Fragment(name, shape, start + first, own, share)

    @torch.no_grad()
    def restore(self, read: Read, step: int) -> None:
        """Read the fragments that this rank owns, and the forward pass's own copy of the weights."""
        if self._stage == 3:
            self._partitions.restore(read, step)
            return
        self._ensure_state(step)
        for name, parameter in self._parameters():
            share = self._share(name)
            whole = read_share(read, "param", name, share, 0, parameter.numel()).to(self.device)
            parameter.copy_(whole.view_as(parameter))
            if self._stage:
                mapping = parameter._hp_mapping
                if mapping is not None:
                    address = mapping.lp_fragment_address
                    start, stop = address.start, address.start + address.numel
                    mapping.get_hp_fragment().copy_(whole[start:stop])
                    for key in self._states(parameter):
                        mapping.get_hp_fragment(key).copy_(read_share(read, key, name, share, start, stop))
            else:
                state = self._optimizer.state[parameter]
                for key in self._states(parameter):
                    part = read_share(read, key, name, share, 0, parameter.numel())
                    state[key].copy_(part.view_as(parameter))

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each name and the master weights that it stands for, gathered in turn."""
        from deepspeed.utils import safe_get_full_fp32_param

        if self._stage == 3:
            yield from self._partitions.whole()
            return
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if parameter.requires_grad:
                own = safe_get_full_fp32_param(parameter) if self._stage else parameter.detach()
                yield name, self.gathered(name, own).float()

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Return the trained master weights and the buffers that are saved, gathered one at a time."""
        out: dict[str, torch.Tensor] = {}
        for name, whole in self.weights():
            if self._world.is_main:
                out[name] = whole.cpu()
        saved = self.module.state_dict().keys()
        for name, buffer in self.module.named_buffers():
            if name in saved:
                out[name] = buffer.detach().cpu()
        return out if self._world.is_main else None

    def gathered(self, name: str, own: torch.Tensor) -> torch.Tensor:
        """Return the whole parameter, or one shaped like it, of which this rank has `own`. All ranks call."""
        if self._tensor is None or name not in self._shares:
            return own
        return self._tensor.whole(own, self._shares[name])

    @property
    def _base(self) -> Any:
        """The optimizer that was built, whose tensors ZeRO has put its own in the place of."""
        return self._optimizer.optimizer if self._stage else self._optimizer

    def _states(self, parameter: Any) -> tuple[str, ...]:
        """Return the names of a parameter's state; at stages 1 and 2, where this rank has a part of it."""
        if not self._stage:
            return states_of(self._base)[parameter]
        return tuple(self._base.param_groups[parameter._hp_mapping.param_group_index]["states"])

    def _share(self, name: str) -> Share | None:
        """Return what this rank has of a parameter; None is the whole of it."""
        if self._tensor is None or name not in self._shares:
            return None
        return self._shares[name][self._tensor.place.index]

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield names and parameters that train, as Any for what DeepSpeed has hung on them alone."""
        yield from trained(self.module)

    def _ensure_state(self, step: int | None = None) -> None:
        """Make the optimizer's state exist, which torch makes only at the first step."""
        state = self._base.state
        for parameter, states in states_of(self._base).items():
            if step is not None or not state[parameter]:
                state[parameter] = self._config.initial_state(parameter, step or 0, states)
        if self._stage in (1, 2):
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _vouch_for(optimizer: torch.optim.Optimizer) -> None:
    """Tell DeepSpeed that ours are tested with ZeRO, of which it would warn the user."""
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    if type(optimizer) not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(type(optimizer))


def _import() -> Any:
    """Import DeepSpeed quietly, with the CPU collective that it would compile for a minute left out."""
    # torch 2.13 deprecates names of collectives that DeepSpeed 0.19 calls, at every call.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    clear_stale_locks(extensions_folder())
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _join_alone() -> None:
    """Make the process group of one process that DeepSpeed needs even where no launcher made one."""
    os.environ.setdefault("LOCAL_RANK", "0")
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
