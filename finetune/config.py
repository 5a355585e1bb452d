"""What a fine-tuning run is made of."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem
from lumbre.run_config import RunConfig
from lumbre.trainer import BatchConfig, TrainConfig

from .data import ExamplesConfig
from .methods import FullConfig, MethodConfig
from .selection import SelectionConfig
from .tasks import TaskConfig

GRID_KEYS = (
    "optimizer.learning_rate, optimizer.weight_decay, optimizer.layer_decay, train.epochs, train.steps, "
    "train.global_batch_size, schedule.warmup"
)


class StartConfig(Config):
    """The model that fine-tuning starts from."""

    path: str
    """A Hugging Face folder, such as runs/NAME/model, or a hub name where there is a network."""
    from_scratch: bool = False
    """Whether the weights are drawn anew, the folder giving the architecture and tokenizer alone."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout of the whole model in place of the folder's own."""


class LengthConfig(BatchConfig):
    """How long to train, in steps or epochs, and in which portions."""

    steps: PositiveInt | None = None
    """Optimizer steps of the whole run. State this or epochs."""
    epochs: PositiveFloat | None = None
    """Passes over the training examples; without eval_every each is followed by an evaluation."""

    def problems(self) -> Iterator[Problem]:
        """Report a length that is not told, or told twice."""
        yield from super().problems()
        if (self.steps is None) == (self.epochs is None):
            fault = "the length is not told" if self.steps is None else "the length is told twice"
            yield Problem("steps", fault, "set one of steps and epochs")

    def resolved(self, num_rows: int) -> TrainConfig:
        """Return the same in steps, for so many training rows."""
        keys = {name: getattr(self, name) for name in BatchConfig.model_fields}
        if self.steps is not None:
            return TrainConfig(**keys, steps=self.steps)
        assert self.epochs is not None
        epoch = max(1, math.ceil(num_rows / self.batch_sizes[0]))
        keys["eval_every"] = self.eval_every or epoch
        return TrainConfig(**keys, steps=max(1, math.ceil(self.epochs * num_rows / self.batch_sizes[0])))


class FinetuneConfig(RunConfig):
    """A model, a task and its examples."""

    train: LengthConfig
    """How long, and in which portions."""
    model: StartConfig
    """Where the weights come from."""
    method: MethodConfig = FullConfig()
    """Which weights train."""
    task: TaskConfig
    """What is learned."""
    data: ExamplesConfig
    """The labelled examples."""
    selection: SelectionConfig = SelectionConfig()
    """Which evaluation's weights are kept, and whether the run ends early."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default_factory=list)
    """Seeds to repeat the run with, each in a folder of its own; empty: one run with `seed`."""
    compare_with_scratch: bool = False
    """Whether each run is repeated with fresh weights, to show what pretraining brought."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Values to try by dotted key; every combination runs with every seed, and the best on validation is
    the one whose test result counts."""
    eval_batch_size: PositiveInt = 64
    """Examples of the greatest length per forward pass of an evaluation; of shorter ones, more."""

    def problems(self) -> Iterator[Problem]:
        """Report a model folder that is not there, and settings that contradict each other."""
        yield from super().problems()
        path = Path(self.model.path)
        local = path.exists() or self.model.path.startswith((".", "/", "~", "runs/", f"{self.runs_folder}/"))
        local |= self.model.path.count("/") > 1
        limit = positions(path / "config.json")
        if local and not (path / "config.json").is_file():
            fault = f"{path} is not a model folder" if path.exists() else f"{path} does not exist"
            yield Problem("model.path", fault, "a pretraining run leaves one in runs/NAME/model")
        elif limit is not None and self.task.longest > limit:
            fault = f"{self.task.longest} tokens, and the model has {limit} positions"
            yield Problem("task.max_length", fault, f"set it to {limit} or less")
        if self.compare_with_scratch and self.model.from_scratch:
            remedy = "leave from_scratch out"
            yield Problem("compare_with_scratch", "the model is from scratch already", remedy)
        if len(set(self.seeds)) < len(self.seeds):
            yield Problem("seeds", f"{self.seeds} repeats a seed", "name each once")
        unit = self.task.unit
        if unit > 1 and not any(self.train.problems()):
            micro = self.train.batch_sizes[1]
            if micro % unit:
                fault = f"{micro} = {micro // unit} x {unit} + {micro % unit} cuts a group of {unit} samples"
                remedy = "set it to a multiple of task.group_size"
                yield Problem("train.micro_batch_size", fault, remedy)
        if self.method.type == "qlora":
            yield from self._qlora_problems()
        yield from self._grid_problems()

    def _qlora_problems(self) -> Iterator[Problem]:
        if self.model.from_scratch or self.compare_with_scratch:
            fault = "qlora trains beside weights of 4 bits, and fresh ones are none"
            yield Problem(
                "method.type", fault, "leave from_scratch and compare_with_scratch out, or use lora"
            )
        if getattr(self.engine, "zero_stage", 0) == 3:
            fault = "ZeRO 3 takes weights apart, which weights of 4 bits do not bear"
            yield Problem("engine.zero_stage", fault, "use stage 2 or less, or method.type=lora")

    def _grid_problems(self) -> Iterator[Problem]:
        for key, values in self.grid.items():
            group, _, name = key.partition(".")
            within = getattr(self, group, None)
            if not isinstance(within, Config) or name not in type(within).model_fields:
                yield Problem(f"grid.{key}", "is no key of a run", f"such keys are {GRID_KEYS}")
            elif not values:
                yield Problem(f"grid.{key}", "has no value", "give a list of values")


def positions(file: Path) -> int | None:
    """Return the longest input of the model whose config.json this is, None where it states no limit."""
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    key = "n_positions" if config.get("model_type") == "gpt2" else "max_position_embeddings"
    limit = config.get(key)
    return limit if isinstance(limit, int) else None
