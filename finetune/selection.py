"""What the evaluations of a run decide: whether it ends early, and whether its best weights are kept."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from safetensors import safe_open
from safetensors.torch import save_file

from lumbre.config import Config
from lumbre.config.base import suggest
from lumbre.engine import Engine
from lumbre.errors import ConfigError, Problem
from lumbre.files import explained, sync

BEST_FILE = "best.safetensors"


class SelectionConfig(Config):
    """Which weights a run keeps, told by evaluations on the validation split."""

    keep: Literal["last", "best"] = "last"
    """The weights that are tested and saved: those of the last step, or of the best evaluation."""
    metric: str | None = None
    """The metric that is looked at, the more the better, or `loss`, the less; left out, the task's first."""
    patience: PositiveInt | None = None
    """Evaluations in a row without a better one that end the run; left out, it runs to its end."""
    min_gain: NonNegativeFloat = 0.0
    """How much better counts as better."""

    def problems(self) -> Iterator[Problem]:
        """Report a gain that nothing looks at."""
        if self.min_gain and self.patience is None and self.keep == "last":
            remedy = "set keep: best, or patience"
            yield Problem("min_gain", "nothing is chosen by it", remedy)


def unknown_metric(name: str, known: Sequence[str]) -> Problem:
    """Return the problem of a metric that no evaluation has."""
    return Problem("selection.metric", f"an evaluation has no {name!r}", suggest(name, known))


class BestEvaluation:
    """Keeps the weights of the best evaluation in the run folder, and counts those since."""

    def __init__(self, config: SelectionConfig, metric: str, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._metric = config.metric or metric
        self.best: float | None = None
        self.best_step = 0
        self._since = 0

    @property
    def done(self) -> bool:
        """Whether patience is at its end."""
        return self._config.patience is not None and self._since >= self._config.patience

    def observe(self, engine: Engine, step: int, metrics: Mapping[str, float]) -> None:
        """Compare with the best so far; write the weights where they are better."""
        if self._metric not in metrics:
            raise ConfigError([unknown_metric(self._metric, list(metrics))])
        value = metrics[self._metric] * (-1 if self._metric == "loss" else 1)
        if self.best is not None and not value > self.best + self._config.min_gain:
            self._since += 1
            return
        self.best, self.best_step, self._since = value, step, 0
        if self._config.keep == "best":
            weights = engine.state_dict()
            if weights is not None:
                working = self._folder / f".{BEST_FILE}.tmp"
                with explained(self._folder):
                    save_file({name: one.contiguous().clone() for name, one in weights.items()}, working)
                    sync(working)
                    working.replace(self._folder / BEST_FILE)

    def restore_best(self, engine: Engine, step: int) -> bool:
        """Set the engine to the weights that are kept, and return whether that changed it; every rank calls.

        The optimizer's state is that of no step afterwards.
        """
        if self._config.keep == "last" or self.best_step == step:
            return False
        with safe_open(self._folder / BEST_FILE, "pt") as file:

            def read(kind: str, name: str, start: int, stop: int) -> torch.Tensor:
                if kind != "param":
                    return torch.zeros(stop - start)
                whole: torch.Tensor = file.get_tensor(name)
                return whole.flatten()[start:stop]

            engine.restore(read, step)
        return True

    def kept_step(self, last: int) -> int:
        """Return the step whose weights are kept."""
        return last if self._config.keep == "last" else self.best_step

    def state(self) -> dict[str, Any]:
        """Return the best so far and how long ago it was."""
        return {"best": self.best, "best_step": self.best_step, "since": self._since}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_step, self._since = state["best"], state["best_step"], state["since"]
