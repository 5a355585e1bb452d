"""ZeRO-Offload and ZeRO-Infinity: optimizer state in host memory or on a disk, parameters in host memory.

Ren et al., 2021, arXiv:2101.06840; Rajbhandari et al., 2021, arXiv:2104.07857.
"""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from lumbre.config import Config
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
    parameters: Literal["none", "cpu"] = "none"
    """Where the parameters of the forward pass wait until their layer's turn (stage 3)."""
    folder: str | None = None
    """A folder on the node's own disk for what is kept on a disk. Each process has a folder of its own in it,
    which goes when the process ends, however it ends."""

    @property
    def on_disk(self) -> bool:
        """Whether anything is kept on a disk."""
        return self.optimizer == "disk"

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
            yield Problem(
                "folder", "optimizer is disk, and none is named", "name a folder on the node's own disk"
            )
        if not self.on_disk and self.folder is not None:
            fault = "nothing is kept on a disk"
            yield Problem("folder", fault, "leave it out, or set optimizer to disk")

    def zero_keys(self) -> dict[str, Any]:
        """Return DeepSpeed's keys below zero_optimization that say what is kept where."""
        keys: dict[str, Any] = {}
        if self.optimizer != "none":
            keys["offload_optimizer"] = {"device": DEVICES[self.optimizer]}
        if self.parameters != "none":
            keys["offload_param"] = {"device": DEVICES[self.parameters]}
        return keys

    def tuning(self, folder: str) -> dict[str, Any]:
        """Return DeepSpeed's keys that size buffers and name this process's `folder`; raw ones go before."""
        if not self.on_disk:
            return {}
        offload = {"nvme_path": folder}
        return {"zero_optimization": {"sub_group_size": SUB_GROUP_SIZE, "offload_optimizer": offload}}

    def bytes_on_disk(self, model: nn.Module, ranks: int, states: int) -> int:
        """Return the bytes that one of so many ranks may write, for an optimizer of so many states.

        They are master weights, states and gradients in float32.
        """
        shares = (-(-one.numel() // ranks) for one in model.parameters() if one.requires_grad)
        return sum(shares) * 4 * (states + 2) if self.on_disk else 0
