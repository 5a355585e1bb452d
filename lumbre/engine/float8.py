"""Products of 8-bit floats in a trunk's blocks (Micikevicius et al., 2022, arXiv:2209.05433), by torchao.

Weights stay as they are, under their names: inputs, weights and gradients are scaled and rounded for each
product, which gives the precision of its input.
"""

from dataclasses import replace
from typing import Literal

from torch import nn
from torchao.float8 import Float8LinearConfig, convert_to_float8_training

from lumbre.errors import ConfigError, Problem
from lumbre.models import Transformer

STEP = 16
"""What divides both sides of a matrix that the devices multiply."""


def convert(trunk: Transformer, recipe: Literal["tensorwise", "rowwise"], *, emulate: bool = False) -> None:
    """Have the linear maps of the blocks multiply 8-bit floats; `emulate` does it in float32, on any device.

    Embeddings, heads, routers and experts are left as they are. Raises ConfigError where no map fits.
    """
    if not any(_fits(part, "") for part in trunk.blocks.modules()):
        fault = f"no linear map of the model's blocks has sides that {STEP} divides both"
        raise ConfigError([Problem("engine.float8", fault, "use none, or a wider model")])
    # Some products run over as many rows as there are targets, which nothing need divide.
    config = replace(Float8LinearConfig.from_recipe_name(recipe), pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(trunk.blocks, module_filter_fn=_fits, config=config)


def _fits(part: nn.Module, name: str) -> bool:
    # Subclasses, such as routers, have a forward pass of their own.
    return type(part) is nn.Linear and not (part.in_features % STEP or part.out_features % STEP)
