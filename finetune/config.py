"""What a fine-tuning run is made of."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from lumbre.config import Config
from lumbre.errors import ConfigError, DataError, Problem
from lumbre.hub_cache import model_problems
from lumbre.run_config import RunConfig
from lumbre.trainer import BatchConfig, TrainConfig
from lumbre.world import is_expected

from .data import ExamplesConfig
from .data.files import FilesConfig
from .folder import CONFIG, absent_targets, incomplete, positions, unfit
from .methods import FullConfig, LoraConfig, MethodConfig
from .selection import SelectionConfig, unknown_metric
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
        """Report a length that is not told, or told twice, and documents where there are none."""
        yield from super().problems()
        if self.spikes == "quarantine":
            fault = "documents are quarantined in pretraining, and fine-tuning has examples"
            yield Problem("spikes", fault, "use roll_back")
        if (self.steps is None) == (self.epochs is None):
            fault = "the length is not told" if self.steps is None else "the length is told twice"
            yield Problem("steps", fault, "set one of steps and epochs")

    def resolved(self, num_rows: int, global_batch: int) -> TrainConfig:
        """Return the same in steps, for so many training rows and so many in each step."""
        keys = {name: getattr(self, name) for name in BatchConfig.model_fields}
        if self.steps is not None:
            return TrainConfig(**keys, steps=self.steps)
        assert self.epochs is not None
        epoch = max(1, math.ceil(num_rows / global_batch))
        keys["eval_every"] = self.eval_every or epoch
        return TrainConfig(**keys, steps=max(1, math.ceil(self.epochs * num_rows / global_batch)))


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
        if self.engine.sequence_parallel > 1:
            fault = "rows are shared out by our own attention, and models of transformers have theirs"
            yield Problem("engine.sequence_parallel", fault, "use 1")
        if self.engine.tensor_parallel > 1:
            fault = "matrices are shared out by our own blocks, and models of transformers have theirs"
            remedy = "use 1; engine.zero_stage=3 shares the model out over ranks too"
            yield Problem("engine.tensor_parallel", fault, remedy)
        for key, off in self.engine.cuda_only.items():
            fault = "is for our own blocks, and models of transformers have theirs"
            yield Problem(f"engine.{key}", fault, f"use {off}")
        yield from self._model_problems()
        yield from self._record_problems()
        yield from self._selection_problems()
        if self.compare_with_scratch and self.model.from_scratch:
            remedy = "leave from_scratch out"
            yield Problem("compare_with_scratch", "the model is from scratch already", remedy)
        if len(set(self.seeds)) < len(self.seeds):
            yield Problem("seeds", f"{self.seeds} repeats a seed", "name each once")
        unit = self.task.unit
        if unit > 1 and self.train.is_determined and not any(self.batch_misfits()):
            micro = self.batch_sizes[1]
            if micro % unit:
                fault = f"{micro} = {micro // unit} x {unit} + {micro % unit} cuts a group of {unit} samples"
                remedy = "set it to a multiple of task.group_size"
                yield Problem("train.micro_batch_size", fault, remedy)
        if self.method.type == "qlora":
            yield from self._qlora_problems()
        yield from self._grid_problems()

    def _model_problems(self) -> Iterator[Problem]:
        path = Path(self.model.path)
        local = path.exists() or self.model.path.startswith((".", "/", "~", "runs/", f"{self.runs_folder}/"))
        local |= self.model.path.count("/") > 1
        if not local:
            yield from model_problems(self.model.path, "model.path")
            return
        if not (path / CONFIG).is_file():
            if not is_expected(path):
                fault = f"{path} is not a model folder" if path.exists() else f"{path} does not exist"
                yield Problem("model.path", fault, "a pretraining run leaves one in runs/NAME/model")
            return
        limit = positions(path)
        if limit is not None and self.task.longest > limit:
            fault = f"{self.task.longest} tokens, and the model has {limit} positions"
            yield Problem("task.max_length", fault, f"set it to {limit} or less")
        yield from unfit(path, self.task.kinds, self.task.type)
        lacking = list(incomplete(path, weights=not self.model.from_scratch))
        yield from lacking
        if isinstance(self.method, LoraConfig) and self.method.target_modules and not lacking:
            yield from absent_targets(path, self.method.target_modules)

    def _record_problems(self) -> Iterator[Problem]:
        """Look at the first record of each split, where one that cannot be used ends the run."""
        if not isinstance(self.data, FilesConfig) or self.data.on_bad_example == "skip":
            return
        if any(self.data.problems()):
            return
        try:
            for split, file, record in self.data.begins():
                fault = self.task.fault(record, "train" if split == "train" else "evaluate")
                if fault:
                    remedy = f"its fields are {', '.join(record)}: name in task the one that is meant"
                    yield Problem(f"data.{split}", f"{file}: the first record {fault}", remedy)
        except DataError as error:
            yield Problem("data", str(error))

    def _selection_problems(self) -> Iterator[Problem]:
        """Report a metric that no evaluation has, and a choice among evaluations where there is but one."""
        known, steps = (*self.task.measures, "loss"), self.train.steps
        if self.selection.metric not in (None, *known):
            yield unknown_metric(str(self.selection.metric), known)
        yield from self.checkpoint.unmeasured(known)
        chooses = self.selection.keep == "best" or self.selection.patience is not None
        if chooses and steps is not None and (self.train.eval_every or steps) >= steps:
            fault = "selection chooses among evaluations, and there is one alone, after the last step"
            yield Problem("train.eval_every", fault, f"set it to less than {steps} steps")

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
            else:
                for value in values:
                    try:
                        with_value(within, key, value)
                    except ConfigError as error:
                        yield from error.problems


def with_value(within: Config, key: str, value: Any) -> Config:
    """Return the group of a grid's dotted key with one of its values, checked as if it stood in the file.

    Raises ConfigError for a value that the key does not take.
    """
    name = key.partition(".")[2]
    tree = within.model_dump(mode="json", serialize_as_any=True) | {name: value}
    if key in ("train.epochs", "train.steps"):
        tree["steps" if name == "epochs" else "epochs"] = None
    try:
        return type(within).model_validate(tree)
    except ValueError as error:
        fault = str(error).splitlines()[2].strip()
        problem = Problem(f"grid.{key}", f"{value!r}: {fault}", "give values that the key takes")
        raise ConfigError([problem]) from error
