"""Weights for a model on the meta device: all of them, or those of a block while it runs."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lumbre.models.transformer import Block


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Make the weights those of a module on the meta device; what is tied there stays so.

    All get their one type, or float32 where they have several.
    """
    dtypes = {tensor.dtype for tensor in weights.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    _put(module, {name: value.to(dtype).contiguous() for name, value in weights.items()})


def lend(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a float32 model on the meta device its weights; a block has its own only while it runs.

    So no more is in memory at once than one block and what is in none. `weights` are read by name, again at
    each pass, and take the model's type: a copy of it in float64 is lent float64.
    """
    blocks = {f"{name}.": part for name, part in model.named_modules() if isinstance(part, Block)}
    inside = tuple(blocks)
    _put(model, {name: weights[name].float() for name in weights if not name.startswith(inside)})
    for prefix, block in blocks.items():
        names = [name for name in weights if name.startswith(prefix)]
        block.register_forward_pre_hook(partial(_take, weights=weights, names=names, prefix=prefix))
        block.register_forward_hook(_give_back)


def _take(
    block: nn.Module, inputs: Any, *, weights: Mapping[str, Tensor], names: list[str], prefix: str
) -> None:
    dtype = next(block.parameters()).dtype
    block.load_state_dict({name.removeprefix(prefix): weights[name].to(dtype) for name in names}, assign=True)


def _give_back(block: nn.Module, inputs: Any, output: Any) -> None:
    block.to("meta")


def _put(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Assign weights by name, and the same parameter to each name of one that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    module.load_state_dict(weights, assign=True, strict=False)
    for tied in names.values():
        for given in [name for name in tied if name in weights][:1]:
            for name in tied:
                owner, _, own = name.rpartition(".")
                setattr(module.get_submodule(owner), own, module.get_parameter(given))
