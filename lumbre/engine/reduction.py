"""How ZeRO's stages 1 and 2 add gradients up over ranks: with few passes over their memory.

By default DeepSpeed copies a gradient into a bucket, divides it, copies the bucket into another, sums that
over ranks, copies it back, copies what the rank keeps once more, takes its norm by way of a copy in float64,
scales it whether or not it is clipped, and copies float32 weights after the update into the model's. It sends
no fewer bytes for that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lumbre.engine.gradient import norms_of_rows

LARGEST_BUCKET = 500_000_000
"""Elements, as DeepSpeed's."""
LARGEST_ON_CPU = 100_000_000
"""Elements: a block that stays with the process from step to step (host_memory.LARGEST)."""
LARGE = 0.1
"""The part of all elements from which on a gradient is summed by itself. More of them would be more meetings
of the ranks, and each waits for the last."""
IN_NORM = 1e-6
"""What DeepSpeed adds to a norm before it compares it with the limit."""


def tuning(model: nn.Module, device: torch.device, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return DeepSpeed's keys by which a bucket is summed where it lies, and is no larger than what is in it.

    `raw` are the user's keys. Parts that they have reduced to their owners alone are no one bucket.
    """
    sizes = [one.numel() for one in model.parameters() if one.requires_grad]
    elements = sum(size for size in sizes if size < LARGE * sum(sizes))
    largest = LARGEST_ON_CPU if device.type == "cpu" else LARGEST_BUCKET
    keys: dict[str, Any] = {"reduce_bucket_size": max(1, min(elements, largest))}
    if raw.get("zero_optimization", {}).get("use_multi_rank_bucket_allreduce", True):
        # The bucket goes to all ranks either way: without this just not by way of a second one.
        keys["reduce_scatter"] = False
    return {"zero_optimization": keys}


def shorten(optimizer: Any) -> None:
    """Have a ZeRO optimizer pass over gradients and weights no more often than it needs to.

    That of stage 1 in bfloat16 is another class, and is left as it is.
    """
    if not hasattr(optimizer, "ipg_buckets"):
        return
    scale_when_clipped(optimizer)
    if optimizer.cpu_offload:
        return
    if optimizer.contiguous_gradients and not optimizer.overlap_comm:
        sum_large_in_place(optimizer)
    take_norms_by_rows(optimizer)
    share_master_weights(optimizer)


def scale_when_clipped(optimizer: Any) -> None:
    """Leave gradients alone whose norm is within the limit, not multiply them by 1."""
    scale = optimizer.unscale_and_clip_grads

    def when_clipped(gradients: Sequence[torch.Tensor], norm: Any) -> None:
        # A norm that is no number is -1 here, or itself.
        within = 0.0 <= float(norm) <= optimizer.clip_grad - IN_NORM
        if not within or optimizer.loss_scale != 1.0:
            scale(gradients, norm)

    optimizer.unscale_and_clip_grads = when_clipped


def sum_large_in_place(optimizer: Any) -> None:
    """Sum a gradient that is much of the model where it lies, by itself, and leave it there."""
    add, keep = optimizer.reduce_independent_p_g_buckets_and_remove_grads, optimizer.copy_grads_in_partition
    bucket_size = optimizer.reduce_bucket_size
    large = LARGE * sum(one.numel() for group in optimizer.bit16_groups for one in group)

    def add_or_sum(parameter: torch.Tensor, group: int) -> None:
        if parameter.numel() < large:
            add(parameter, group)
            return
        # What is larger than a bucket DeepSpeed leaves where it is, when the bucket has been summed.
        optimizer.reduce_bucket_size = 1
        add(parameter, group)
        optimizer.reduce_bucket_size = bucket_size
        optimizer.reduce_ipg_grads(optimizer.get_param_comm_dtype(parameter))

    def keep_small(parameter: torch.Tensor, group: int | None = None) -> None:
        # The bucket is written into again, what was in none is not.
        if parameter.numel() >= large:
            return
        own_room = optimizer.dtype == optimizer.gradient_accumulation_dtype
        if own_room and optimizer.grads_in_partition is None:
            # DeepSpeed would make room for the large ones too.
            kept = (one.numel() for own in optimizer.params_in_partition for one in own)
            room = sum(size for size in kept if size < large)
            optimizer.grads_in_partition = parameter.new_empty(room, dtype=optimizer.dtype)
            optimizer.grads_in_partition_offset = 0
        keep(parameter, group)

    optimizer.reduce_independent_p_g_buckets_and_remove_grads = add_or_sum
    optimizer.copy_grads_in_partition = keep_small


def take_norms_by_rows(optimizer: Any) -> None:
    """Take a large gradient's norm from its rows' norms: as exact as by a copy in float64."""
    norm = optimizer.get_grad_norm_direct

    def by_rows(gradients: Sequence[torch.Tensor], parameters: Any, norm_type: float = 2) -> Any:
        own = [one for one in gradients if not getattr(one, "_zero_padding", False)]
        return norm([norms_of_rows(one) for one in own], parameters, norm_type)

    optimizer.get_grad_norm_direct = by_rows


def share_master_weights(optimizer: Any) -> None:
    """Let the float32 weights that a rank updates be the model's own, no copy of them."""
    masters, parts = optimizer.single_partition_of_fp32_groups, optimizer.parallel_partitioned_bit16_groups
    for index, master in enumerate(masters):
        own = parts[index][torch.distributed.get_rank(optimizer.real_dp_process_group[index])]
        if (own.dtype, own.device) == (master.dtype, master.device):
            # torch copies nothing where both are one.
            master.data = own.data
    optimizer._link_all_hp_params()
