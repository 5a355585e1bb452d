"""How ZeRO's stages 1 and 2 add gradients up over ranks: with few passes over their memory.

By default DeepSpeed copies a gradient into a bucket, divides it, copies the bucket into another, sums that
over ranks, copies it back, and scales it whether or not it is clipped. It sends no fewer bytes for that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

LARGEST_BUCKET = 500_000_000
"""Elements, as DeepSpeed's."""
LARGEST_ON_CPU = 100_000_000
"""Elements: a block that stays with the process from step to step (host_memory.LARGEST)."""
IN_NORM = 1e-6
"""What DeepSpeed adds to a norm before it compares it with the limit."""


def tuning(model: nn.Module, device: torch.device, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return DeepSpeed's keys by which a bucket is summed where it lies, and is no larger than the model.

    `raw` are the user's keys. Parts that they have reduced to their owners alone are no one bucket.
    """
    elements = sum(one.numel() for one in model.parameters() if one.requires_grad)
    largest = LARGEST_ON_CPU if device.type == "cpu" else LARGEST_BUCKET
    keys: dict[str, Any] = {"reduce_bucket_size": max(1, min(elements, largest))}
    if raw.get("zero_optimization", {}).get("use_multi_rank_bucket_allreduce", True):
        # The bucket goes to all ranks either way: without this just not by way of a second one.
        keys["reduce_scatter"] = False
    return {"zero_optimization": keys}


def scale_when_clipped(optimizer: Any) -> None:
    """Have a ZeRO optimizer leave gradients alone whose norm is within the limit, not multiply them by 1.

    That of stage 1 in bfloat16 is another class, and clips by torch's own functions.
    """
    scale = getattr(optimizer, "unscale_and_clip_grads", None)
    if scale is None:
        return

    def when_clipped(gradients: Sequence[torch.Tensor], norm: Any) -> None:
        # A norm that is no number is -1 here, or itself.
        within = 0.0 <= float(norm) <= optimizer.clip_grad - IN_NORM
        if not within or optimizer.loss_scale != 1.0:
            scale(gradients, norm)

    optimizer.unscale_and_clip_grads = when_clipped
