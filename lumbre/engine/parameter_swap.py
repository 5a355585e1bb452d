"""Parameters of ZeRO stage 3 on a disk, through DeepSpeed's swapper, with buffers as they are needed.

DeepSpeed 0.19's own has a fixed number of buffers, and ends a run that needs one more; and it takes memory
for whole weights where parts are written.
"""

from typing import Any

import torch
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.swap_tensor.partitioned_param_swapper import AsyncPartitionedParameterSwapper


class ParameterSwapper(AsyncPartitionedParameterSwapper):  # type: ignore[misc]
    """DeepSpeed's swapper; where it would lack a buffer it makes one more."""

    def __init__(self, config: DeepSpeedConfig, dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        first: Any = self.buffers
        self.buffers: Any = _Buffers(first, self.aligned_elements_per_buffer)
        self._room = 0
        """Elements that fit into the buffer that parts are written from."""

    def swap_in(self, params: list[Any], async_op: bool = True, swap_in_buffers: Any = None) -> None:
        """Read the parts of parameters into buffers."""
        while len(self.available_buffer_ids) < len(params):
            self.available_buffer_ids.append(len(self.buffers.all))
            self.buffers.all.append(self._locked(self.aligned_elements_per_buffer))
        super().swap_in(params, async_op, swap_in_buffers)

    def reserve_partitioned_swap_space(self, partition_num_elems: list[int]) -> None:
        """Take nothing yet: what is written tells how much."""

    def swap_out_partitioned_params(self, dst_fp16_params: list[Any], src_fp32_params: list[Any]) -> None:
        """Write parts of master weights as parameters."""
        sizes = [part.numel() for part in src_fp32_params]
        needed = sum(self._io_aligned_numel(size) for size in sizes)
        if needed > self._room:
            if self._room:
                self.aio_write_handle.free_cpu_locked_tensor(self.partitioned_swap_buffer)
            super().reserve_partitioned_swap_space(sizes)
            self._room = needed
        super().swap_out_partitioned_params(dst_fp16_params, src_fp32_params)

    def _locked(self, numel: int) -> torch.Tensor:
        """Return memory that stays where it is, as direct reads want it."""
        example = torch.zeros(1, dtype=self.dtype)
        locked: torch.Tensor = self.aio_read_handle.new_cpu_locked_tensor(numel, example)
        return locked


class _Buffers:
    """Buffers of one size, addressed as if they were one tensor."""

    def __init__(self, first: torch.Tensor, numel: int) -> None:
        self.all = [first]
        self._numel = numel

    def narrow(self, dim: int, start: int, length: int) -> torch.Tensor:
        """Return a part of the buffer that begins at `start`."""
        return self.all[start // self._numel].narrow(dim, start % self._numel, length)

    def numel(self) -> int:
        """Return how many elements all buffers have."""
        return len(self.all) * self._numel
