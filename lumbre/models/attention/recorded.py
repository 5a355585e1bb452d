"""The weights of attention as they were computed, for those who want to look; training never comes here.

Shapes: B batch, Q queries, T keys, N heads, K key/value heads, H head size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lumbre.models.attention.kernel import Kernel
from lumbre.models.attention.module import Attention


@dataclass(frozen=True)
class Recording:
    """A kernel that keeps its weights: what it makes of values that are an identity matrix."""

    kernel: Kernel
    keep: Callable[[Tensor], None]

    def __call__(self, q_BQNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, scale: float | None) -> Tensor:
        """Return y_BQNH."""
        B, T, K, _ = k_BTKH.shape
        identity_BTKT = torch.eye(T).to(v_BTKH)[None, :, None].expand(B, T, K, T)
        self.keep(self.kernel(q_BQNH, k_BTKH, identity_BTKT, scale).transpose(1, 2).detach())
        return self.kernel(q_BQNH, k_BTKH, v_BTKH, scale)


@contextmanager
def recorded(trunk: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield the weights [B, N, Q, T] of every Attention under its name, filled by the forward passes within.

    They are those of the dense kernel, which is what all others compute too.
    """
    found: dict[str, Tensor] = {}
    stacks = [module for module in trunk.modules() if hasattr(module, "attention_kernel")]
    before = [stack.attention_kernel for stack in stacks]
    handles = [
        module.register_forward_pre_hook(_recorder(found, name), with_kwargs=True)
        for name, module in trunk.named_modules()
        if isinstance(module, Attention)
    ]
    try:
        for stack in stacks:
            stack.attention_kernel = "dense"  # type: ignore[assignment]
        yield found
    finally:
        for stack, kernel in zip(stacks, before, strict=True):
            stack.attention_kernel = kernel
        for handle in handles:
            handle.remove()


def _recorder(found: dict[str, Tensor], name: str) -> Callable[..., Any]:
    def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        x_BQD, rotation, kernel = given
        return (x_BQD, rotation, Recording(kernel, lambda weights: found.update({name: weights}))), named

    return hook
