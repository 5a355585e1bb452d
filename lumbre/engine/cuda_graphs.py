"""CUDA graphs of compiled blocks: what a block starts is recorded once, and started as one from then on.

torch keeps what the graphs of one run of a model share in one memory (its "CUDAGraph trees"), which the next
run writes to again.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lumbre.models import Transformer

OPTIONS = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}
"""The compiler's: record graphs, and none where shapes vary, which would be one for each."""


def mark(model: nn.Module, trunks: Iterable[Transformer]) -> None:
    """Tell torch where a run of the model begins, and take gradients out of the memory of the graphs.

    A run is a forward pass with the backward pass after it, if there is one: a learner that called its model
    twice before it went backward would have the first call's activations written over.
    """
    model.register_forward_pre_hook(_begin)
    for parameter in (one for trunk in trunks for one in trunk.blocks.parameters()):
        if parameter.requires_grad:
            # Autograd keeps the first gradient that it is given, and the next run would write over it.
            hook: Any = parameter.register_hook
            hook(torch.clone)


def _begin(*_: Any) -> None:
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
