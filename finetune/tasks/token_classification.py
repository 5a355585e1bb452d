"""Token classification: a tag for each word of a sentence (CoNLL-2003: Tjong Kim Sang & De Meulder,
aclanthology.org/W03-0419), the tag of a word read off its first piece (Devlin et al., 2019, 5.3).

Shapes: B batch, T time, L labels, K words that a row decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from scipy.special import softmax
from torch import nn

from lumbre.errors import DataError, Problem
from lumbre.trainer import Batch, LossOutput, Term

from ..data import Example
from ..metrics.sequence_labels import entities
from ..pretrained import check_fast
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
    padded,
)
from .strides import owned, windows

METRICS = ("f1", "precision", "recall", "accuracy")
OUTSIDE = "O"
NONE = -100
"""The label of a piece that counts for nothing."""
MOST_LABELS = 1000


class TokenClassificationConfig(TaskConfig):
    """Which tag each word of a sentence has: names, parts of speech."""

    type: Literal["token_classification"] = "token_classification"
    """The task's name."""
    stride: NonNegativeInt = 32
    """Tokens of a sentence longer than max_length that two of its rows share; none of it is cut off."""
    tokens_field: str = "tokens"
    """The field of a record that holds the list of its words."""
    tags_field: str = "tags"
    """The field that holds the list of their tags: strings, or numbers of `labels`."""
    labels: list[str] | None = None
    """Names of the tags; for numbers in the records, each one's name. Left out, those of training."""
    label_all_pieces: bool = False
    """Whether every piece of a word is trained to have its tag, B- followed by I-, not the first alone."""
    metric: Literal["f1", "precision", "recall", "accuracy"] = "f1"
    """The metric that runs are compared by: of whole entities, or the accuracy of tags (parts of speech)."""

    def problems(self) -> Iterator[Problem]:
        """Report a stride that no row can have, and labels that are not several."""
        if self.stride >= self.max_length:
            fault = f"{self.stride} tokens, and a row has {self.max_length}"
            yield Problem("stride", fault, "set it to about a quarter of max_length")
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            yield Problem("labels", f"{self.labels} are not two or more different names", "name each once")

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return METRICS

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return which field a record lacks, or what is wrong with its lists."""
        fields = [self.tokens_field, *([] if purpose == "predict" else [self.tags_field])]
        if fault := missing(example, fields):
            return fault
        for name in fields:
            if not isinstance(example[name], Sequence) or isinstance(example[name], str):
                return f"the field {name!r} is no list: {example[name]!r}"
        tokens = example[self.tokens_field]
        if not any(str(token).strip() for token in tokens):
            return "the sentence is empty"
        if purpose == "predict":
            return ""
        tags = example[self.tags_field]
        if len(tokens) != len(tags):
            return f"tokens and tags differ in number: {len(tokens)} and {len(tags)}"
        if self.labels is None and any(isinstance(tag, int) for tag in tags):
            return "a tag is a number, and task.labels is left out; set it, or data.label_names for the hub's"
        return ""

    def learn(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """Return the tags' names in order, O first; raises DataError where there is but one."""
        found = {name for one in examples["train"] for name in self.names(one)}
        labels = self.labels or sorted(found, key=lambda name: (name != OUTSIDE, name))
        if len(labels) < 2:
            raise DataError(f"train: every word has the tag {labels[0]!r}; give records of two or more")
        if len(labels) > MOST_LABELS and self.labels is None:
            some = ", ".join(labels[:3])
            raise DataError(
                f"train: {len(labels)} different tags ({some}, ...); is {self.tags_field!r} right?"
            )
        return {"labels": labels}

    def names(self, example: Example) -> list[str]:
        """Return the names of a record's tags."""
        return [self._name(tag) for tag in example[self.tags_field]]

    def build(self, path: str, state: Mapping[str, Any]) -> "TokenClassification":
        """Return the task; raises ModelError where the folder's tokenizer does not tell words."""
        return TokenClassification(self, path, state)

    def _name(self, tag: Any) -> str:
        if self.labels is not None and isinstance(tag, int) and 0 <= tag < len(self.labels):
            return self.labels[tag]
        return str(tag)


class TokenClassification(Task):
    """Hugging Face's token classification head; cross-entropy of each word's first piece."""

    purpose = "as a token classifier"
    pipeline = "token-classification"
    config: TokenClassificationConfig

    def __init__(self, config: TokenClassificationConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        check_fast(self.tokenizer, path, self.purpose)
        self.config = config
        self.labels: tuple[str, ...] = tuple(state["labels"])
        self._number = {label: number for number, label in enumerate(self.labels)}
        self.metrics = (config.metric, *(name for name in METRICS if name != config.metric))

    def auto_class(self) -> Any:
        """Return the Auto class of token classifiers."""
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def configured(self, config: Any) -> Any:
        """Name the tags in the model's config, so that pipelines tell them."""
        config.id2label = dict(enumerate(self.labels))
        config.label2id = dict(self._number)
        return config

    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return a row for each part of a sentence that is too long for one.

        input_ids [T], `words` [T]: which word a piece decides, -1 for none, and for training and evaluation
        labels [T], -100 for none. A word is decided in one row alone, with half a stride around it.
        """
        encoded = self.tokenizer(
            spaced(example[self.config.tokens_field]), is_split_into_words=True, verbose=False
        )
        word_T = np.array([-1 if word is None else word for word in encoded.word_ids()])
        places = np.flatnonzero(word_T >= 0)
        if not len(places):
            raise ExampleError("the sentence has no token")
        first, stop, total = int(places[0]), int(places[-1]) + 1, len(word_T)
        begins_T = (word_T >= 0) & (np.diff(word_T, prepend=-1) != 0)
        ids_T = np.asarray(encoded["input_ids"])
        decided = {"words": (np.where(begins_T, word_T, -1), -1)}
        if purpose != "predict":
            decided["labels"] = (self._targets(example, word_T, begins_T), NONE)
        spans = windows(stop - first, self.config.max_length, total - (stop - first), self.config.stride)
        rows = []
        for span, own in zip(spans, owned(spans), strict=True):
            kept = np.r_[:first, first + span.start : first + span.stop, stop:total]
            foreign = (kept < first + own.start) | (kept >= first + own.stop)
            own_T = {name: np.where(foreign, none, array[kept]) for name, (array, none) in decided.items()}
            rows.append({"input_ids": ids_T[kept], **own_T})
        return rows

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the inputs, words and labels [B, T], padded to the longest."""
        batch = inputs(rows, self.tokenizer.pad_token_id)
        batch["words"] = padded(rows, "words", -1)
        if "labels" in rows[0]:
            batch["labels"] = padded(rows, "labels", NONE)
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of pieces that have a label."""
        return {"loss": float((batch["labels"] != NONE).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the cross-entropy summed over pieces that have a label."""
        loss = _cross_entropy(self._logits(model, batch), batch)
        return LossOutput({"loss": Term(loss, self.counts(batch)["loss"])})

    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return the words that each row decides [K] with their logits [K, L], and the loss."""
        logits_BTL = self._logits(model, batch)
        arrays = batch["words"].cpu().numpy(), logits_BTL.float().cpu().numpy()
        outputs = [
            (words_T[words_T >= 0], logits_TL[words_T >= 0])
            for words_T, logits_TL in zip(*arrays, strict=True)
        ]
        if "labels" not in batch:
            return Predicted(outputs)
        return Predicted(outputs, float(_cross_entropy(logits_BTL, batch)), self.counts(batch)["loss"])

    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return the likeliest tag of each word with its probability.

        A word that the tokenizer makes no token of, such as a control character, has the tag O (or the
        first of the labels where there is no O) and the probability null.
        """
        return [self._decision(one, rows) for one, rows in zip(examples, outputs, strict=True)]

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return F1, precision and recall of entities and the accuracy of tags, by seqeval."""
        found = entities(
            [one["prediction"] for one in predictions], [self.config.names(one) for one in examples]
        )
        return {name: found[name] for name in self.metrics}

    def shown(self, example: Example) -> dict[str, Any]:
        """Return the words and their tags."""
        shown: dict[str, Any] = {"input": list(example[self.config.tokens_field])}
        if example.get(self.config.tags_field) is not None:
            shown["target"] = self.config.names(example)
        return shown

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return the share of words whose tag is right."""
        pairs = zip(prediction["prediction"], self.config.names(example), strict=True)
        return float(np.mean([found == meant for found, meant in pairs]))

    def _targets(self, example: Example, word_T: np.ndarray, begins_T: np.ndarray) -> np.ndarray:
        """Return the label of each piece [T]; those of a word that it goes on with are inside."""
        names = self.config.names(example)
        unseen = [name for name in names if name not in self._number]
        if unseen:
            raise ExampleError(f"the tag is not among the tags of training: {unseen[0]!r}")
        numbers = np.array([self._number[name] for name in names])
        label_T = np.where(begins_T, numbers[word_T], NONE)
        if self.config.label_all_pieces:
            inside = np.array([self._number[self._inside(name)] for name in names])
            label_T = np.where((word_T >= 0) & ~begins_T, inside[word_T], label_T)
        return label_T

    def _inside(self, name: str) -> str:
        inside = f"I-{name[2:]}"
        return inside if name.startswith("B-") and inside in self._number else name

    def _decision(self, example: Example, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Prediction:
        fallback = OUTSIDE if OUTSIDE in self._number else self.labels[0]
        length = len(example[self.config.tokens_field])
        tags: list[str] = [fallback] * length
        chances: list[float | None] = [None] * length
        for words_K, logits_KL in rows:
            chances_KL = softmax(logits_KL.astype(np.float64), axis=1)
            best_K = chances_KL.argmax(axis=1)
            for word, best, chance in zip(words_K, best_K, chances_KL.max(axis=1), strict=True):
                tags[word], chances[word] = self.labels[best], round(float(chance), 6)
        return {"prediction": tags, "probabilities": chances}

    def _logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        asked = {name: tensor for name, tensor in batch.items() if name not in ("words", "labels")}
        return at_least_float32(model(**asked).logits)


def spaced(words: Sequence[Any]) -> list[str]:
    """Return words so that each has the pieces that it has in the sentence.

    A byte-level vocabulary has other pieces for a word behind a blank than for one at the beginning; what
    splits at blanks drops it.
    """
    return [str(words[0]), *(f" {word}" for word in words[1:])]


def _cross_entropy(logits_BTL: torch.Tensor, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(
        logits_BTL.flatten(0, 1), batch["labels"].flatten(), reduction="sum", ignore_index=NONE
    )
