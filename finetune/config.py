"""What a fine-tuning run is made of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem
from lumbre.run_config import RunConfig
from lumbre.trainer import TrainConfig

from .data import ExamplesConfig
from .tasks import TaskConfig


class StartConfig(Config):
    """The model that fine-tuning starts from."""

    path: str
    """A Hugging Face folder, such as runs/NAME/model, or a hub name where there is a network."""
    from_scratch: bool = False
    """Whether the weights are drawn anew, the folder giving the architecture and tokenizer alone."""


class FinetuneConfig(RunConfig):
    """A model, a task and its examples."""

    train: TrainConfig
    """How long, and in which portions."""
    model: StartConfig
    """Where the weights come from."""
    task: TaskConfig
    """What is learned."""
    data: ExamplesConfig
    """The labelled examples."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default_factory=list)
    """Seeds to repeat the run with, each in a folder of its own; empty: one run with `seed`."""
    compare_with_scratch: bool = False
    """Whether each run is repeated with fresh weights, to show what pretraining brought."""
    eval_batch_size: PositiveInt = 64
    """Examples per forward pass of an evaluation."""

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
        elif limit is not None and self.task.max_length > limit:
            fault = f"{self.task.max_length} tokens, and the model has {limit} positions"
            yield Problem("task.max_length", fault, f"set it to {limit} or less")
        if self.compare_with_scratch and self.model.from_scratch:
            remedy = "leave from_scratch out"
            yield Problem("compare_with_scratch", "the model is from scratch already", remedy)
        if len(set(self.seeds)) < len(self.seeds):
            yield Problem("seeds", f"{self.seeds} repeats a seed", "name each once")


def positions(file: Path) -> int | None:
    """Return the longest input of the model whose config.json this is, None where it states no limit."""
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    key = "n_positions" if config.get("model_type") == "gpt2" else "max_position_embeddings"
    limit = config.get(key)
    return limit if isinstance(limit, int) else None
