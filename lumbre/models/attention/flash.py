"""FlashAttention over packed tokens (Dao, 2023, arXiv:2307.08691): each document is a sequence of its own.

Shapes: P all tokens of a batch, B batch, Q queries, T keys, N heads, K key/value heads, H head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lumbre.models.attention.pattern import Pattern, Run

LARGEST_HEAD = 256
HEAD_STEP = 8


@dataclass(frozen=True)
class Flash:
    """One call for all rows; padding is attended as documents are."""

    starts: Tensor
    """Where each document starts and the last ends, int32."""
    longest: int
    window: tuple[int, int]
    """How many keys before and after its own a query sees; -1 is all."""

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH."""
        # Under autocast what was normed or turned may be wider than the values.
        q_PNH, k_PKH, v_PKH = (x.type_as(v_BTKH).flatten(0, 1) for x in (q_BQNH, k_BTKH, v_BTKH))
        lengths = self.starts, self.starts, self.longest, self.longest
        if _package():
            from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found, unused-ignore]

            y_PNH = flash_attn_varlen_func(
                *(q_PNH, k_PKH, v_PKH, *lengths),
                softmax_scale=scale,
                causal=self.window[1] == 0,
                window_size=self.window,
                deterministic=torch.are_deterministic_algorithms_enabled(),
            )
        else:
            from torch.nn.attention.varlen import varlen_attn

            y_PNH = varlen_attn(
                *(q_PNH, k_PKH, v_PKH, *lengths), scale=scale, window_size=self.window, enable_gqa=True
            )
        assert isinstance(y_PNH, Tensor)
        return y_PNH.view(q_BQNH.shape)


def flash(pattern: Pattern, runs: Sequence[Run], x_BQD: Tensor) -> Flash:
    """Return the kernel for these documents of x_BQD, which attends to itself."""
    ends = [run.start + run.length for run in runs]
    longest = max(run.length for run in runs)
    side = -1 if pattern.window is None or pattern.window >= longest else pattern.window
    starts = torch.tensor([0, *ends], dtype=torch.int32, device=x_BQD.device)
    return Flash(starts, longest, (side, 0 if pattern.causal else side))


def fault(x_BQD: Tensor, head_size: int) -> str | None:
    """Return why FlashAttention cannot serve a model of such tensors, or None."""
    device = x_BQD.device
    if device.type != "cuda":
        return f"needs a CUDA device, and the model is on {device.type}"
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else x_BQD.dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return f"computes in float16 or bfloat16, and the model in {str(dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"needs an Ampere GPU or a later one, and {torch.cuda.get_device_name(device)} is neither"
    if head_size % HEAD_STEP or head_size > LARGEST_HEAD:
        return (
            f"takes head sizes that {HEAD_STEP} divides, up to {LARGEST_HEAD}, and the model's is {head_size}"
        )
    if not _package() and not torch.backends.cuda.is_flash_attention_available():
        return "is not in this torch, and the package flash_attn is not installed"
    return None


@cache
def _package() -> bool:
    return find_spec("flash_attn") is not None
