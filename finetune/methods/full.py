"""Full fine-tuning: everything trains."""

from collections.abc import Collection
from typing import Literal

from torch import nn

from .base import MethodConfig


class FullConfig(MethodConfig):
    """Train every weight."""

    type: Literal["full"] = "full"
    """The method's name."""

    def apply(self, model: nn.Module, head: Collection[str]) -> nn.Module:
        """Return the model as it is."""
        return model.train()
