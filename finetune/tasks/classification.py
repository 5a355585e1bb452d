"""Sequence classification: the label of a text or a pair of texts, several labels at once, or a number.

Shapes: B batch, T time, L labels.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import nn

from lumbre.errors import DataError, Problem
from lumbre.trainer import Batch, LossOutput, Term

from ..data import Example
from ..metrics import classification as metrics
from .base import (
    ExampleError,
    Predicted,
    Prediction,
    Purpose,
    Row,
    Task,
    TaskConfig,
    at_least_float32,
    inputs,
    missing,
)

Kind = Literal["single_label", "multi_label", "regression"]
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1", "f1_macro", "matthews"),
    "multi_label": ("f1", "f1_macro", "exact_match"),
    "regression": ("pearson", "spearman", "negative_mse"),
}
MOST_LABELS = 1000


class ClassificationConfig(TaskConfig):
    """Which of several labels a text or a pair has, which of them all at once, or which number."""

    type: Literal["classification"] = "classification"
    """The task's name."""
    text_field: str = "text"
    """The field of a record that holds the text."""
    pair_field: str | None = None
    """The field that holds the second text of a pair."""
    label_field: str = "label"
    """The field that holds the label: a string or a number; a list where there are several at once."""
    problem: Kind = "single_label"
    """single_label: one of several; multi_label: any number of several; regression: a number."""
    labels: list[str] | None = None
    """Names of the labels; for numbers in the records, each one's name. Left out, those of training."""
    metric: str | None = None
    """The metric that runs are compared by; left out, accuracy, micro F1 or Pearson's correlation."""
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """Weight of each label's examples in the loss; balanced: in inverse proportion to their number."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels (Szegedy et al., 2016, arXiv:1512.00567)."""

    def problems(self) -> Iterator[Problem]:
        """Report a metric that the problem does not have, and settings that only labels have."""
        known = METRICS[self.problem]
        if self.metric is not None and self.metric not in known:
            yield Problem("metric", f"{self.problem} has no {self.metric}", f"use one of {', '.join(known)}")
        if self.problem != "single_label":
            for key in ("class_weights", "label_smoothing"):
                if getattr(self, key):
                    yield Problem(key, f"{self.problem} has no such thing", "leave it out")
        if self.problem == "regression" and self.labels:
            yield Problem("labels", "regression has none", "leave it out")
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            yield Problem("labels", f"{self.labels} are not two or more different names", "name each once")

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return METRICS[self.problem]

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return which field a record lacks, or that a text or label is none."""
        texts = [self.text_field, *([self.pair_field] if self.pair_field else [])]
        if fault := missing(example, texts if purpose == "predict" else [*texts, self.label_field]):
            return fault
        for name in texts:
            if not str(example[name]).strip():
                return f"the field {name!r} is an empty text"
        if purpose == "predict":
            return ""
        label = example[self.label_field]
        if self.problem == "regression":
            return "" if _number(label) is not None else f"the label {label!r} is no finite number"
        if self.problem == "multi_label" and not isinstance(label, list | tuple):
            return f"the label {label!r} is no list of labels"
        if self.problem == "single_label" and isinstance(label, list | dict):
            return f"the label {label!r} is not one label; problem: multi_label takes lists"
        if self.problem == "single_label" and label in (-1, "-1") and self.labels is not None:
            return "the label is -1, which stands for a label that was kept back"
        return ""

    def learn(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """Return the labels' names, in order, and their weights; raises DataError where there is but one."""
        if self.problem == "regression":
            return {"labels": []}
        counts = Counter(name for one in examples["train"] for name in self.names(one))
        labels = self.labels or sorted(counts, key=_numbers_first)
        if len(labels) < 2:
            raise DataError(f"train: every record has the label {labels[0]!r}; give records of two or more")
        if len(labels) > MOST_LABELS and self.labels is None:
            some = ", ".join(labels[:3])
            raise DataError(
                f"train: {len(labels)} different labels ({some}, ...); is {self.label_field!r} right?"
            )
        return {"labels": labels, "weights": self._weights(labels, counts)}

    def names(self, example: Example) -> list[str]:
        """Return the names of a record's labels."""
        given = example[self.label_field]
        return [self._name(one) for one in (given if self.problem == "multi_label" else [given])]

    def build(self, path: str, state: Mapping[str, Any]) -> "Classification":
        """Return the task; raises ModelError where the folder has no tokenizer."""
        return Classification(self, path, state)

    def _name(self, label: Any) -> str:
        if self.labels is not None and isinstance(label, int) and not isinstance(label, bool):
            return self.labels[label] if 0 <= label < len(self.labels) else str(label)
        return str(label)

    def _weights(self, labels: Sequence[str], counts: Mapping[str, int]) -> list[float] | None:
        if self.class_weights is None:
            return None
        if self.class_weights == "balanced":
            absent = [label for label in labels if not counts.get(label)]
            if absent:
                raise DataError(f"train: no record has the label {absent[0]!r}, which cannot be balanced")
            total = sum(counts.values())
            return [total / (len(labels) * counts[label]) for label in labels]
        unknown = sorted(set(self.class_weights) - set(labels))
        if unknown:
            raise DataError(f"task.class_weights: {unknown} are no labels; there are {list(labels)}")
        return [self.class_weights.get(label, 1.0) for label in labels]


class Classification(Task):
    """Hugging Face's sequence classification head; cross-entropy, binary cross-entropy or squared error."""

    purpose = "as a sequence classifier"
    pipeline = "text-classification"
    config: ClassificationConfig

    def __init__(self, config: ClassificationConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        self.config = config
        self.labels: tuple[str, ...] = tuple(state["labels"])
        self._number = {label: number for number, label in enumerate(self.labels)}
        weights = state.get("weights")
        self._weights_L = None if weights is None else torch.tensor(weights)
        known = METRICS[config.problem]
        first = config.metric or known[0]
        self.metrics = (first, *(name for name in known if name != first))

    def auto_class(self) -> Any:
        """Return the Auto class of sequence classifiers."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def configured(self, config: Any) -> Any:
        """Name the labels and the problem in the model's config, so that pipelines tell them."""
        names = dict(enumerate(self.labels)) or {0: "score"}
        config.id2label = names
        config.label2id = {name: number for number, name in names.items()}
        config.problem_type = {
            "single_label": "single_label_classification",
            "multi_label": "multi_label_classification",
            "regression": "regression",
        }[self.config.problem]
        return config

    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return input_ids [T], token types where the model has them, and the target.

        A label's number [1], a mark for each label [L], or a number [1].
        """
        pair = self.config.pair_field
        texts = [str(example[name]) for name in (self.config.text_field, pair) if name is not None]
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.config.max_length)
        row = {"input_ids": np.asarray(encoded["input_ids"], dtype=np.int64)}
        if "token_type_ids" in encoded and len(texts) > 1:
            row["token_type_ids"] = np.asarray(encoded["token_type_ids"], dtype=np.int64)
        if purpose != "predict":
            row["labels"] = self._target(example)
        return [row]

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids and attention_mask [B, T], padded to the longest, and labels [B] or [B, L]."""
        batch = inputs(rows, self.tokenizer.pad_token_id)
        if "labels" in rows[0]:
            labels = torch.from_numpy(np.stack([row["labels"] for row in rows]))
            batch["labels"] = labels if self.config.problem == "multi_label" else labels[:, 0]
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of examples; with class weights, the sum of theirs."""
        if self._weights_L is not None:
            return {"loss": float(self._weights_L[batch["labels"].cpu()].sum())}
        return {"loss": float(len(batch["labels"]))}

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the loss summed over examples (and weighted by class)."""
        return LossOutput({"loss": Term(self._sum(self._logits(model, batch), batch), self._count(batch))})

    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return each example's logits, and the loss."""
        logits_BL = self._logits(model, batch)
        outputs = list(logits_BL.float().cpu().numpy())
        if "labels" not in batch:
            return Predicted(outputs)
        return Predicted(outputs, float(self._sum(logits_BL, batch)), self._count(batch))

    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return the likeliest label, the labels above one half, or the number, with the probabilities."""
        from scipy.special import expit, softmax

        logits = [rows[0] for rows in outputs]
        if self.config.problem == "regression":
            return [{"prediction": float(one[0])} for one in logits]
        if self.config.problem == "multi_label":
            chances = [expit(one.astype(np.float64)) for one in logits]
            return [
                {
                    "prediction": [name for name, p in zip(self.labels, one, strict=True) if p > 0.5],
                    "probabilities": self._by_label(one),
                }
                for one in chances
            ]
        return [
            {
                "prediction": self.labels[int(one.argmax())],
                "probabilities": self._by_label(softmax(one.astype(np.float64))),
            }
            for one in logits
        ]

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the problem's metrics, by scikit-learn and scipy as GLUE has them."""
        given = [one["prediction"] for one in predictions]
        if self.config.problem == "regression":
            targets = [float(one[self.config.label_field]) for one in examples]
            found = metrics.regression(np.array(given), np.array(targets))
        elif self.config.problem == "multi_label":
            found = metrics.multi_label(
                np.stack([self._marks(names) for names in given]),
                np.stack([self._marks(self.config.names(one)) for one in examples]),
            )
        else:
            found = metrics.single_label(
                np.array([self._number[name] for name in given]),
                np.array([self._number[self.config.names(one)[0]] for one in examples]),
                len(self.labels),
            )
        return {name: found[name] for name in self.metrics}

    def shown(self, example: Example) -> dict[str, Any]:
        """Return the texts and the label."""
        pair = self.config.pair_field
        text = str(example[self.config.text_field])
        shown: dict[str, Any] = {"input": [text, str(example[pair])] if pair else text}
        if example.get(self.config.label_field) is not None:
            names = self.config.names(example)
            shown["target"] = names if self.config.problem == "multi_label" else names[0]
        return shown

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return 1 for the right label or labels, 0 for others; minus the error of a number."""
        if self.config.problem == "regression":
            return None
        names = self.config.names(example)
        given = prediction["prediction"]
        return float(set(given) == set(names) if self.config.problem == "multi_label" else given == names[0])

    def _target(self, example: Example) -> np.ndarray:
        if self.config.problem == "regression":
            return np.asarray([_number(example[self.config.label_field])], dtype=np.float32)
        names = self.config.names(example)
        unseen = [name for name in names if name not in self._number]
        if unseen:
            raise ExampleError(
                f"the label {unseen[0]!r} is not among the labels of training: {list(self.labels)}"
            )
        if self.config.problem == "multi_label":
            return self._marks(names)
        return np.asarray([self._number[names[0]]])

    def _marks(self, names: Sequence[str]) -> np.ndarray:
        marks = np.zeros(len(self.labels), dtype=np.float32)
        marks[[self._number[name] for name in names]] = 1
        return marks

    def _by_label(self, chances: np.ndarray) -> dict[str, float]:
        return {name: round(float(p), 6) for name, p in zip(self.labels, chances, strict=True)}

    def _count(self, batch: Batch) -> float:
        return self.counts(batch)["loss"]

    def _sum(self, logits_BL: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels = batch["labels"]
        if self.config.problem == "regression":
            return F.mse_loss(logits_BL[:, 0], labels.to(logits_BL.dtype), reduction="sum")
        if self.config.problem == "multi_label":
            # The mean over labels, as transformers has it.
            marks_BL = labels.to(logits_BL.dtype)
            return F.binary_cross_entropy_with_logits(logits_BL, marks_BL, reduction="none").mean(1).sum()
        weights_L = None if self._weights_L is None else self._weights_L.to(logits_BL)
        return F.cross_entropy(
            logits_BL, labels, weights_L, reduction="sum", label_smoothing=self.config.label_smoothing
        )

    def _logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        output = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        return at_least_float32(output.logits)


def _number(label: Any) -> float | None:
    try:
        number = float(label)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _numbers_first(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isdecimal() else (1, 0, label)
