"""What the model says to a few prompts in the course of a run: completions, answers, filled masks."""

import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt
from rich.console import Console

from lumbre import distributed
from lumbre.config import Config
from lumbre.engine import Engine
from lumbre.errors import LumbreError
from lumbre.files import explained
from lumbre.generate import Sampling, said
from lumbre.signals import StopRequest
from lumbre.tracking import Row


class SamplesConfig(Config):
    """Prompts that the model is given while it trains; a decoder goes on, an encoder fills masks."""

    prompts: list[str] = Field(min_length=1)
    """Texts to complete or to answer; for an encoder, with [MASK] where a token is missing."""
    every_steps: PositiveInt = 500
    """Steps between looks; the last step is always one."""
    max_new_tokens: PositiveInt = 32
    """Most tokens to add to a prompt."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token each time, so that looks can be compared."""


class Generations:
    """Lets a copy of the weights speak, and leaves the run itself as it was."""

    name = "samples"

    def __init__(
        self,
        config: SamplesConfig,
        last_step: int,
        run: Path,
        export: Callable[[Path], None],
    ) -> None:
        """`export` writes the model as it is to a folder; all ranks call it."""
        self._config = config
        self._last_step = last_step
        self._work = run / "samples-at-work"
        self._export = export
        self._done = 0

    def due(self, step: int) -> bool:
        """Whether the model is to speak after this step and has not."""
        on_time = step == self._last_step or step % self._config.every_steps == 0
        return 0 < step != self._done and on_time

    def run(self, engine: Engine, step: int, stop: StopRequest) -> Iterator[Row]:
        """Yield the row of what it says, or the event that it could not; every rank calls."""
        row = self._row(step)
        self._done = step
        yield distributed.from_main(row)

    def state(self) -> dict[str, Any]:
        """Return the last step after which the model spoke."""
        return {"step": self._done}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Know it again."""
        self._done = state.get("step", 0)

    def _row(self, step: int) -> Row | None:
        """Return the row on the main rank; the others have their part in the copy of the weights."""
        if not distributed.world().is_main:
            self._export(self._work / "model")
            return None
        sampling = Sampling(self._config.max_new_tokens, self._config.temperature)
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        shutil.rmtree(self._work, ignore_errors=True)
        try:
            self._export(self._work / "model")
            # A detector has no language-model head, and its generator stands beside it.
            generator = self._work / "model-generator"
            folder = generator if generator.is_dir() else self._work / "model"
            # A model that speaks draws its tokens.
            with explained(self._work), torch.random.fork_rng(devices):
                samples = said(folder, self._config.prompts, sampling, Console(file=io.StringIO()))
        except (LumbreError, OSError) as error:
            message = str(error).splitlines()[0].replace(str(self._work), "samples")
            return {"event": "samples_failed", "step": step, "message": message, "time": time.time()}
        finally:
            shutil.rmtree(self._work, ignore_errors=True)
        return {"step": step, "samples": samples, "time": time.time()}
