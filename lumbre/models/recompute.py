"""Activation checkpointing: trade memory for computing parts of the forward twice (Chen et al., 2016).

Full recomputation is arXiv:1604.06174's; the selective form keeps the products and computes what is cheap
again (Korthikanti et al., 2022, arXiv:2205.05198).
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

Recompute = Literal["none", "selective"] | Annotated[int, Field(ge=1)]
"""Nothing is computed twice; all but the products; or everything inside every so many blocks."""

Steps = list[tuple[nn.Module, tuple[Any, ...]]]
"""Each block, and what it is given beside its input."""


InTurn = Callable[[Steps, Tensor], tuple[Tensor, Any]]
"""What applies steps in turn: in_turn, or what has been compiled of it."""


def run(steps: Steps, x_BTD: Tensor, recompute: Recompute, apply: InTurn) -> tuple[Tensor, Any]:
    """Apply all steps, so many at a time where they are computed again; return what in_turn does."""
    if recompute == "none" or not torch.is_grad_enabled():
        return apply(steps, x_BTD)
    size = 1 if recompute == "selective" else recompute
    context = partial(create_selective_checkpoint_contexts, _keep_products)
    total: Any = None
    for start in range(0, len(steps), size):
        x_BTD, balance = checkpoint(
            partial(apply, steps[start : start + size]),
            x_BTD,
            use_reentrant=False,
            context_fn=context if recompute == "selective" else noop_context_fn,
        )
        total = _sum(total, balance)
    return x_BTD, total


def in_turn(steps: Steps, x_BTD: Tensor) -> tuple[Tensor, Any]:
    """Apply each block to the last one's output with what it is given; return it and the summed balance."""
    total: Any = None
    for block, given in steps:
        x_BTD, balance = block(x_BTD, *given)
        total = _sum(total, balance)
    return x_BTD, total


def _sum(total: Any, balance: Any) -> Any:
    return balance if total is None else total + balance


def _keep_products(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operator.__name__.split(".")[0] in _PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_PRODUCTS = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_flash_attn_varlen_forward",
    "_varlen_attn",
    "flex_attention",
}
