"""Feature extraction: a frozen trunk under a head that trains, perhaps with the blocks next to it."""

from collections.abc import Collection
from typing import Literal

from pydantic import NonNegativeInt
from torch import nn

from lumbre.errors import ModelError
from lumbre.optim.depth import distances, stacks

from .base import MethodConfig


class FrozenConfig(MethodConfig):
    """Train the head, and the last blocks where `trainable_layers` says so."""

    type: Literal["frozen"] = "frozen"
    """The method's name."""
    trainable_layers: NonNegativeInt = 0
    """How many of the last blocks train, of each stack, with all that comes after them."""

    def apply(self, model: nn.Module, head: Collection[str]) -> nn.Module:
        """Freeze what is neither the head nor near the top.

        Raises ModelError where the model has fewer blocks, or nothing is left to train.
        """
        below = distances(name for name, _ in model.named_parameters())
        blocks = max(stacks(below).values(), default=0)
        if self.trainable_layers > blocks:
            raise ModelError(
                f"method.trainable_layers: {self.trainable_layers}, and the model has {blocks} blocks; "
                "use fewer, or method.type=full to train everything"
            )
        trains = set(head)
        if self.trainable_layers:
            trains |= {name for name, distance in below.items() if distance <= self.trainable_layers}
        if not trains:
            raise ModelError(
                "method: the model has no head of its own, and with the trunk frozen nothing trains; "
                "set method.trainable_layers, or use method.type=lora"
            )
        model.requires_grad_(False)
        for name in trains:
            model.get_parameter(name).requires_grad_(True)
        return model.train()
