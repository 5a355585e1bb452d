"""Steps whose loss or gradient is NaN or infinite: they update nothing; too many in a row want a remedy."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt

from lumbre.config import Config


class NonFiniteConfig(Config):
    """What happens to a step whose loss or gradient is NaN or infinite: nothing of it is applied."""

    skip: NonNegativeInt = 3
    """How many such steps in a row are skipped; one more brings what `then` says."""
    then: Literal["roll_back", "stop"] = "roll_back"
    """roll_back takes the weights of the last checkpoint and goes on past the data that came after it; stop
    ends the run."""


class NonFiniteSteps:
    """Counts the steps that were skipped, in all and in a row."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.total = 0
        """Steps of the run that updated nothing."""
        self.in_a_row = 0
        """Those of them that end at the present step."""
        if state:
            self.total, self.in_a_row = state["total"], state["in_a_row"]

    def observe(self, loss: float, norm: float) -> str:
        """Take a step's loss and gradient norm; return what is wrong with them, "" where nothing is."""
        if math.isfinite(norm):
            self.in_a_row = 0
            return ""
        self.total += 1
        self.in_a_row += 1
        return f"the gradient is {norm}" if math.isfinite(loss) else f"the loss is {loss}"

    def state(self) -> dict[str, int]:
        """Return what a checkpoint carries of it."""
        return {"total": self.total, "in_a_row": self.in_a_row}


def marked(loss: torch.Tensor) -> torch.Tensor:
    """Return the loss, its gradient NaN where it is not finite.

    An infinite loss can have a finite gradient. So marked, the global norm tells every rank of it, and the
    engine leaves the step out; the device is not waited for.
    """
    # Zero times what is not finite is NaN, and one else.
    return loss * (loss.detach() * 0.0 + 1.0)
