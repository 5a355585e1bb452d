"""What lies in the flat tensors by which ZeRO's stages 1 and 2 share out parameters."""

from typing import Any

import torch
from torch import nn

from lumbre.engine.base import trained
from lumbre.optim import Piece


def pieces(module: nn.Module, base: torch.optim.Optimizer) -> list[tuple[torch.Tensor, list[Piece]]]:
    """Return this rank's flat tensors, one for each of the optimizer's groups, and what lies in them."""
    flats: list[tuple[torch.Tensor, list[Piece]]] = [(group["params"][0], []) for group in base.param_groups]
    for name, parameter in trained(module):
        mapping: Any = getattr(parameter, "_hp_mapping", None)
        if mapping is not None:
            start, offset = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
            piece = Piece(name, tuple(parameter.shape), start, offset, mapping.lp_fragment_address.numel)
            flats[mapping.param_group_index][1].append(piece)
    return flats
