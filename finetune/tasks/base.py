"""What a task is: examples to batches, a loss, and the metrics that are reported."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt
from torch import nn

from lumbre.config import Choice
from lumbre.trainer import Batch, LossOutput

Example = Mapping[str, Any]
"""One record of a data set, by field."""


class Task(ABC):
    """A Learner whose samples are records; built once the labels and the tokenizer are known."""

    metrics: ClassVar[tuple[str, ...]]
    """Names of what `score` returns, the first the one that runs are compared by."""

    @abstractmethod
    def build_model(self, path: str, *, from_scratch: bool) -> nn.Module:
        """Return the model of a Hugging Face folder with this task's head, or the same with fresh weights.

        The model is in training mode. Raises ModelError when the folder has no model for this task.
        """

    @abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files beside a fine-tuned model."""

    @abstractmethod
    def encode(self, example: Example) -> dict[str, np.ndarray]:
        """Return one example as arrays: input_ids [T] and the target."""

    @abstractmethod
    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> Batch:
        """Return rows as one batch, padded to the longest."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of targets of each loss term."""

    @abstractmethod
    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens, padding not counted."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the loss terms as sums."""

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for each example of the batch its prediction and its summed loss, both [B]."""

    @abstractmethod
    def score(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Return the metrics of predictions against targets, both over a whole split."""


class TaskConfig(Choice):
    """What is learned from labelled examples."""

    max_length: PositiveInt = 128
    """Longest input in tokens; the rest of a text is cut off."""

    def build(self, model_path: str, examples: Mapping[str, Sequence[Example]]) -> Task:
        """Return the task for the model folder's tokenizer and the labels found in the training split."""
        raise NotImplementedError
