"""What computes attention: a kernel is chosen by name or by what the device has, once per forward.

Shapes: B batch, Q queries, T keys, N heads, K key/value heads, H head size, D hidden.
"""

from typing import Literal, Protocol

from torch import Tensor

from lumbre.errors import ModelError
from lumbre.models.attention import flash, flex, segments
from lumbre.models.attention.dense import dense
from lumbre.models.attention.pattern import Pattern

KernelName = Literal["auto", "dense", "segments", "flex", "flash"]


class Kernel(Protocol):
    """Attention with a pattern of its own."""

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH; `scale` multiplies the scores, None stands for 1 / sqrt(H)."""
        ...


def choose(name: KernelName, pattern: Pattern, x_BQD: Tensor, keys: int, head_size: int = 64) -> Kernel:
    """Return the kernel for queries as wide as x_BQD over so many keys.

    A name is a wish: what it cannot express goes to the next of flash, flex and dense, and so do a plain
    pattern, a cache and an encoder's memory to dense. Raises ModelError where the device, the dtype or the
    head size rule the name out.
    """
    faults = {"flash": flash.fault(x_BQD, head_size), "flex": flex.fault(x_BQD, head_size)}
    if fault := faults.get(name):
        raise ModelError(f"engine.attention_kernel: {name} {fault}; use auto")
    if name == "dense" or not pattern.itself or pattern.plain(keys):
        return dense(pattern, x_BQD, keys)
    rows, auto = x_BQD.shape[0], name == "auto"
    if name == "segments" or (auto and x_BQD.device.type == "cpu"):
        runs = pattern.runs(rows, keys)
        if runs is not None and (not auto or segments.worthwhile(pattern, runs, x_BQD)):
            return segments.segments(pattern, runs, x_BQD)
        return dense(pattern, x_BQD, keys)
    extras = (pattern.bias_BNQT, pattern.prefix_BT)
    if name != "flex" and all(one is None for one in extras) and faults["flash"] is None:
        runs = pattern.runs(rows, keys)
        if runs is not None:
            return flash.flash(pattern, runs, x_BQD)
    # FlexAttention adds up a bias's gradient with atomics, and a run would not resume to the same bits.
    learned = pattern.bias_BNQT is not None and pattern.bias_BNQT.requires_grad
    if faults["flex"] is None and not (auto and learned):
        return flex.flex(pattern, x_BQD)
    return dense(pattern, x_BQD, keys)
