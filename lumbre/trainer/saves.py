"""When a run is saved, and what is told of it."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumbre.checkpoint import Checkpoints
from lumbre.engine import Engine
from lumbre.errors import ConfigError
from lumbre.tracking import Artifact
from lumbre.trainer.cadence import Cadence

NEWS = 1.25
"""An interval that has changed by this factor is told."""


class Saves:
    """The loop's side of checkpoints. Every rank calls every method."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        steps: int,
        tell: Callable[[str, int, str], None],
        keep: Callable[[Artifact], None],
    ) -> None:
        """`tell` takes an event's name, step and message; `keep` takes checkpoints that are whole."""
        self._checkpoints, self._config, self._steps = checkpoints, checkpoints.config, steps
        self._tell, self._keep = tell, keep
        self._cadence = Cadence(self._config)
        self._asked = False
        self._saved_step = -1
        self._measured: tuple[int, Mapping[str, float]] = (-1, {})
        self._best: float | None = None
        self._best_step = -1
        self._artifacts: dict[Path, Artifact] = {}
        self._told_interval = math.inf

    def begin(self, engine: Engine) -> None:
        """Get ready to save in the middle of the run, where that may be."""
        config = self._config
        within = config.every_steps is not None and config.every_steps < self._steps
        if config.background and (within or config.every_minutes or config.keep_best):
            self._checkpoints.prepare(engine)
        self._cadence.began()

    def flags(self) -> tuple[float, float]:
        """Return whether the clock asks for a save, and whether one has failed here: summed over ranks."""
        return float(self._cadence.is_due), float(self._checkpoints.faulty)

    def heard(self, asked: float, failed: float) -> None:
        """Take the sums of `flags`. Raises RunFolderError on every rank where a save has failed on any."""
        self._asked = asked > 0
        if failed:
            self._checkpoints.wait()
        self._tell_finished()

    def stepped(self, seconds: float) -> None:
        """Take how long a step took."""
        self._cadence.stepped(seconds, beside_a_save=self._checkpoints.in_flight)

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take an evaluation, which may be the best so far."""
        self._measured = step, metrics
        best = self._config.keep_best
        if best is None:
            return
        if problems := list(self._config.unmeasured(metrics)):
            raise ConfigError(problems)
        value = best.sign * metrics[best.metric]
        if math.isfinite(value) and (self._best is None or value > best.sign * self._best):
            self._best, self._best_step = metrics[best.metric], step

    def is_best(self, step: int) -> bool:
        """Whether the evaluation of this step is better than all before, and the best are kept."""
        return step == self._best_step

    def is_due(self, step: int) -> bool:
        """Whether the run is to be saved after this step."""
        every = self._config.every_steps
        by_steps = every is not None and step % every == 0
        return by_steps or self._asked or self.is_best(step) or step == self._steps

    def is_saved(self, step: int) -> bool:
        """Whether this step is the last that was saved."""
        return step == self._saved_step

    def save(self, engine: Engine, step: int, tokens: int, state: Mapping[str, Any], *, ends: bool) -> None:
        """Save the run; where it ends here, the checkpoint is whole when this returns."""
        self._asked = False
        measured, metrics = self._measured
        more = {"metrics": dict(metrics)} if measured == step else {}
        self._checkpoints.wait()
        self._tell_finished()
        self._cadence.began()
        background = self._config.background and not ends
        state = {**state, **more, "best": self._best}
        folder = self._checkpoints.save(engine, step, state, background=background)
        self._saved_step = step
        self._artifacts[folder] = Artifact(
            folder,
            "checkpoint",
            title=f"{folder.parent.parent.name}-checkpoint",
            aliases=["latest", f"step-{step}"],
            metadata={"step": step, "tokens": tokens},
        )
        self._tell_finished()

    def restored(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self._saved_step, self._best = state["step"], state.get("best")

    def settle(self) -> None:
        """Wait for the save in flight. Raises RunFolderError on every rank where it has failed on any."""
        self._checkpoints.wait()
        self._tell_finished()

    def close(self) -> None:
        """Wait for the save in flight where other ranks can no longer be asked."""
        self._checkpoints.close()
        self._tell_finished()

    def _tell_finished(self) -> None:
        saved = self._checkpoints.finished()
        if saved is None:
            return
        artifact = self._artifacts.pop(saved.folder)
        self._keep(artifact)
        self._cadence.saved(saved.pause, saved.seconds)
        interval = self._cadence.interval
        if self._config.every_minutes != "auto" or interval is None:
            return
        if not 1 / NEWS < interval / self._told_interval < NEWS:
            self._told_interval = interval
            message = (
                f"a save costs {self._cadence.cost:.2f} s: with {self._config.failures_per_day:g} failures a "
                f"day, one every {interval / 60:.1f} minutes loses the least time"
            )
            self._tell("checkpoint_interval", int(artifact.metadata["step"]), message)
