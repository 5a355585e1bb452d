"""What a task is: the loss on labelled examples, the predictions, and the metrics that papers quote."""

import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import nn

from lumbre.config import Choice
from lumbre.errors import DataError
from lumbre.files import write_json
from lumbre.trainer import Batch, LossOutput

from ..data import Example
from ..pretrained import Kind, Start, load_config, load_model, load_tokenizer

TASK_FILE = "lumbre_task.json"
Row = Mapping[str, np.ndarray]
"""What the model reads of an example: `input_ids` [T] and the task's own arrays."""
Purpose = Literal["train", "evaluate", "predict"]
"""What an example is encoded for: the last has no target."""
Prediction = dict[str, Any]
"""What is predicted for an example, as JSON; `prediction` is the answer itself."""


class ExampleError(ValueError):
    """A record that the task cannot use; its message is the fault."""


@dataclass(frozen=True)
class Predicted:
    """What the model makes of a batch."""

    outputs: list[Any]
    """One of each row, to be handed from process to process."""
    loss: float = 0.0
    """Summed over targets, in nats where it is a cross-entropy."""
    count: float = 0.0
    """How many targets."""


class Task(ABC):
    """A Learner whose samples are rows of examples; built once what must be learned of the data is known."""

    metrics: tuple[str, ...]
    """Names of what `score` returns, the first the one that runs are compared by; more of it is better."""
    purpose: ClassVar[str]
    """What a model is fine-tuned to be, for errors: "as a sequence classifier"."""
    pipeline: ClassVar[str]
    """The pipeline of transformers that runs the fine-tuned model."""
    usage: str = ""
    """How the model is used in Python, where no pipeline runs it."""
    unit: int
    """Consecutive samples that stay in one micro batch."""
    generates: bool = False
    """Whether `predict` lets the model write, and so needs it without the engine's wrapping."""
    tokenizer: Any

    def __init__(self, config: "TaskConfig", path: str, state: Mapping[str, Any]) -> None:
        self.model_config = load_config(path, self.purpose, config.kinds)
        self.tokenizer = load_tokenizer(path, self.purpose)
        self.config = config
        self.unit = config.unit
        self.path = path
        self.state = dict(state)
        """What was learned of the data, as JSON: labels, thresholds."""

    def build_model(
        self,
        path: str,
        *,
        from_scratch: bool,
        dropout: float | None = None,
        loading: Mapping[str, Any] | None = None,
    ) -> Start:
        """Return the model of a Hugging Face folder with this task's head, or the same with fresh weights.

        `dropout` replaces the folder's own; `loading` is handed to `from_pretrained`. Raises ModelError when
        the folder has no model for this task.
        """
        config = self.configured(load_config(path, self.purpose, self.config.kinds))
        return load_model(
            path,
            config,
            self.tokenizer,
            self.auto_class(),
            self.purpose,
            from_scratch=from_scratch,
            dropout=dropout,
            loading=loading,
        )

    @abstractmethod
    def auto_class(self) -> Any:
        """Return the Auto class of transformers that has the task's head."""

    def configured(self, config: Any) -> Any:
        """Return the model's config with what the head needs, such as the names of labels."""
        return config

    @abstractmethod
    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return an example as the rows that the model reads; raises ExampleError where it cannot be used."""

    def length(self, row: Row) -> int:
        """Return how many tokens a row costs."""
        return len(row["input_ids"])

    def arrange(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the training rows as they are trained on: several in one, where the task packs them."""
        return rows

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one batch, padded to the longest."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of targets of each loss term."""

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens, padding not counted."""
        return int(batch["attention_mask"].sum())

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the loss terms as sums."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return one output for each row of the batch, and the loss where the batch has targets."""

    def calibrate(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> None:
        """Set what is chosen on development data, in `state`, from the outputs of each example's rows."""
        return

    @abstractmethod
    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return the prediction of each example, from the outputs of its rows."""

    @abstractmethod
    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the metrics of predictions against the examples' targets, over a whole split."""

    @abstractmethod
    def shown(self, example: Example) -> dict[str, Any]:
        """Return `input` and `target` of an example, as they are shown beside its prediction."""

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return how good one prediction is, 0 to 1; None where there is no such thing for one example."""
        return None

    def usage_code(self) -> str:
        """Return Python that uses the fine-tuned model; a model type of ours is registered first."""
        own = self.model_config.model_type == "lumbre"
        code = self.usage or (
            f'from transformers import pipeline\n\nmodel = pipeline("{self.pipeline}", "THIS FOLDER")'
        )
        return f"import lumbre  # registers the model type\n{code}" if own else code

    def save(self, folder: Path) -> None:
        """Write the tokenizer and what `restored` reads beside a fine-tuned model."""
        self.tokenizer.save_pretrained(folder)
        task = self.config.model_dump(mode="json", serialize_as_any=True)
        write_json(folder / TASK_FILE, {"task": task, "state": self.state})


class TaskConfig(Choice):
    """What is learned from labelled examples."""

    kinds: ClassVar[tuple[Kind, ...]] = ("encoder", "decoder", "encoder-decoder")
    """The kinds of models that can learn it."""

    max_length: PositiveInt = 128
    """Longest input in tokens; the rest of a text is cut off."""

    @property
    def longest(self) -> int:
        """The most tokens that one stack of the model reads."""
        return self.max_length

    @property
    def unit(self) -> int:
        """Consecutive samples that stay in one micro batch, such as those that are each other's negatives."""
        return 1

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have, before the data is known."""
        raise NotImplementedError

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return what is wrong with a record's fields; empty where nothing is."""
        return ""

    def learn(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """Return what must be known of the data before training, as JSON; raises DataError where nothing
        can be learned from it."""
        return {}

    def build(self, path: str, state: Mapping[str, Any]) -> Task:
        """Return the task for a model folder's tokenizer and what `learn` returned.

        Raises ModelError where the folder has no tokenizer or a model of another kind.
        """
        raise NotImplementedError


def restored(folder: Path) -> Task:
    """Return the task that a fine-tuned model's folder was saved with; raises DataError where it has none."""
    try:
        saved = json.loads((folder / TASK_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: has no {TASK_FILE}: it was not fine-tuned here") from error
    config = TaskConfig.model_validate(saved["task"])
    return config.build(str(folder), saved["state"])


def missing(example: Example, names: Sequence[str]) -> str:
    """Return which of the fields a record lacks; empty where it has all."""
    for name in names:
        if example.get(name) is None:
            fault = f"the field {name!r} is null" if name in example else f"has no field {name!r}"
            return f"{fault}: {begin(example)}"
    return ""


def begin(example: Example) -> str:
    """Return the beginning of a record, to be recognised by."""
    return textwrap.shorten(json.dumps(example, ensure_ascii=False, default=str), 120)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32, or in float64 where it is: what losses are computed in."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def padded(rows: Sequence[Row], name: str, value: int, *, left: bool = False) -> torch.Tensor:
    """Return the rows' arrays of that name as one tensor [B, T], padded to the longest."""
    longest = max(len(row[name]) for row in rows)
    out_BT = torch.full((len(rows), longest), value)
    for at, row in enumerate(rows):
        length = len(row[name])
        place = slice(longest - length, longest) if left else slice(length)
        out_BT[at, place] = torch.from_numpy(row[name])
    return out_BT


def inputs(rows: Sequence[Row], pad: int, *, left: bool = False) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask [B, T], and token_type_ids where the rows have them."""
    ones = [{"mask": np.ones(len(row["input_ids"]), dtype=np.int64)} for row in rows]
    out = {
        "input_ids": padded(rows, "input_ids", pad, left=left),
        "attention_mask": padded(ones, "mask", 0, left=left),
    }
    if "token_type_ids" in rows[0]:
        out["token_type_ids"] = padded(rows, "token_type_ids", 0, left=left)
    return out
