"""ZeRO-Offload and ZeRO-Infinity: optimizer state and parameters in host memory or on a disk.

Ren et al., 2021, arXiv:2101.06840; Rajbhandari et al., 2021, arXiv:2104.07857.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lumbre.config import Config
from lumbre.engine import swap
from lumbre.errors import Problem

Place = Literal["none", "cpu", "disk"]

DEVICES: dict[Place, str] = {"none": "none", "cpu": "cpu", "disk": "nvme"}
"""What DeepSpeed calls each place."""
SUB_GROUP_SIZE = 50_000_000
"""Elements that are updated together: as many come from a disk at a time, four buffers of them in memory."""


class OffloadConfig(Config):
    """Where what the device need not hold all the time is kept."""

    optimizer: Place = "none"
    """Where master weights and optimizer state are kept and updated: none, the device; cpu, the host's memory
    (stages 1 to 3); disk, which they are read from and written to at each step (stage 3)."""
    parameters: Place = "none"
    """Where the parameters of the forward pass wait until their layer's turn (stage 3): cpu, the host's
    memory; disk, which a layer is read from at each of its turns, and written to after the update."""
    folder: str | None = None
    """A folder on the node's own disk for what is kept on a disk. Each process has a folder of its own in it,
    which goes when the process ends, however it ends."""

    @property
    def on_disk(self) -> tuple[str, ...]:
        """The keys of what is kept on a disk."""
        return tuple(key for key in ("optimizer", "parameters") if getattr(self, key) == "disk")

    def misfits(self, stage: int) -> Iterator[Problem]:
        """Yield what the ZeRO stage cannot keep elsewhere, and a disk that is not named."""
        for key, least in (("optimizer", 1), ("parameters", 3)):
            place = getattr(self, key)
            if place == "disk":
                least = 3
            if place != "none" and stage < least:
                instead = "; cpu can from stage 1 on" if key == "optimizer" and least == 3 else ""
                fault = (
                    f"{place} can be used from stage {least} on, and engine.zero_stage is {stage}{instead}"
                )
                remedy = f"use engine.zero_stage={least}{'' if least == 3 else ' or more'}, or none"
                yield Problem(key, fault, remedy)
        if self.on_disk and self.folder is None:
            fault = f"{self.on_disk[0]} is disk, and none is named"
            yield Problem("folder", fault, "name a folder on the node's own disk")
        if not self.on_disk and self.folder is not None:
            fault = "nothing is kept on a disk"
            yield Problem("folder", fault, "leave it out, or set optimizer or parameters to disk")

    def zero_keys(self) -> dict[str, Any]:
        """Return DeepSpeed's keys below zero_optimization that say what is kept where."""
        keys: dict[str, Any] = {}
        if self.optimizer != "none":
            keys["offload_optimizer"] = {"device": DEVICES[self.optimizer]}
        if self.parameters != "none":
            keys["offload_param"] = {"device": DEVICES[self.parameters]}
        return keys

    def tuning(self, folder: str, largest: int) -> dict[str, Any]:
        """Return DeepSpeed's keys that size buffers and name this process's `folder`; raw ones go before.

        `largest` is the number of elements in the largest part of a parameter that a rank has.
        """
        keys: dict[str, Any] = {}
        if "optimizer" in self.on_disk:
            keys |= {"sub_group_size": SUB_GROUP_SIZE, "offload_optimizer": {"nvme_path": folder}}
        if "parameters" in self.on_disk:
            # More buffers are made as they are needed: see parameter_swap.py.
            sizes = {"buffer_size": largest, "buffer_count": 1, "max_in_cpu": 0}
            keys |= {"sub_group_size": SUB_GROUP_SIZE, "offload_param": {"nvme_path": folder, **sizes}}
            # A parameter holds its buffer for as long as it is whole: it is let go after each use.
            keys |= {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
        return {"zero_optimization": keys} if keys else {}

    def claim(self, model: nn.Module, states: int, element_size: int) -> swap.SwapFolder | None:
        """Make this process's folder where anything is kept on a disk, and load what reads and writes it.

        Every rank calls, before parameters are shared out. Raises ConfigError where either cannot be done.
        """
        if not self.on_disk or self.folder is None:
            return None
        ranks = torch.distributed.get_world_size()
        needed = self.bytes_on_disk(model, ranks, states, element_size)
        folder = swap.claim(Path(self.folder), needed)
        swap.load_async_io()
        return folder

    def bytes_on_disk(self, model: nn.Module, ranks: int, states: int, element_size: int) -> int:
        """Return the bytes that one of so many ranks may write, for an optimizer of so many states.

        They are master weights, states and gradients in float32, and parameters of so many bytes an element.
        """
        total = 0
        for one in model.parameters():
            share = -(-one.numel() // ranks)
            if "optimizer" in self.on_disk and one.requires_grad:
                total += share * 4 * (states + 2)
            if "parameters" in self.on_disk:
                total += share * element_size
        return total
