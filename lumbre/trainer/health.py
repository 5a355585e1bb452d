"""How a run fares: which steps updated nothing, where the loss jumped, and when it is time to roll back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumbre.trainer.config import BatchConfig
from lumbre.trainer.non_finite import NonFiniteSteps
from lumbre.trainer.spikes import LossSpikes


@dataclass(frozen=True)
class Finding:
    """What is to be told of a step."""

    event: str = ""
    """The event's name, "" where the step was as others are."""
    message: str = ""
    fault: str = ""
    """Why the run should not go on with these weights, "" where it may."""


class Health:
    """Takes each step's loss and gradient norm; a checkpoint carries it, and a resumed run finds the same."""

    def __init__(self, config: BatchConfig, state: Mapping[str, Any] | None = None) -> None:
        """`state` is what `state` gave, of the step `state["step"]`."""
        state = state or {}
        self._config = config
        self.updates: int = state.get("updates", state.get("step", 0))
        """Steps that the optimizer took; others were skipped, or passed over by a roll-back."""
        self.roll_backs: int = state.get("roll_backs", 0)
        self._spikes = LossSpikes(state.get("losses", ()))
        self._non_finite = NonFiniteSteps(state.get("non_finite"))

    def observe(self, loss: float, norm: float) -> Finding:
        """Take a step; one whose norm is not finite has updated nothing."""
        fault = self._non_finite.observe(loss, norm)
        if not fault:
            self.updates += 1
            jump = self._spikes.observe(loss)
            return (
                Finding("loss_spike", jump, jump if self._config.spikes != "tell" else "")
                if jump
                else Finding()
            )
        counted = f"{self._non_finite.in_a_row} in a row, {self._non_finite.total} in all"
        beyond = self._non_finite.in_a_row > self._config.non_finite.skip
        message = f"{fault}; nothing was updated ({counted})"
        return Finding("step_skipped", message, f"{fault}, {counted}" if beyond else "")

    @property
    def can_go_on(self) -> bool:
        """Whether the weights are well, so that a run that cannot roll back goes on with them."""
        return not self._non_finite.in_a_row

    @property
    def hindrance(self) -> str:
        """Why the run may not roll back now, "" where it may."""
        if not self.can_go_on and self._config.non_finite.then == "stop":
            return "train.non_finite.then is stop"
        if self.roll_backs >= self._config.roll_backs:
            return f"it has rolled back {self.roll_backs} times (train.roll_backs)"
        return ""

    def rolled_back(self, state: Mapping[str, Any]) -> "Health":
        """Return how the run fares with a checkpoint's weights."""
        earlier = Health(self._config, state)
        earlier.roll_backs = self.roll_backs + 1
        earlier._non_finite = NonFiniteSteps({"total": self._non_finite.total, "in_a_row": 0})
        return earlier

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint carries of it, beside the step."""
        return {
            "updates": self.updates,
            "roll_backs": self.roll_backs,
            "losses": self._spikes.state(),
            "non_finite": self._non_finite.state(),
        }
