"""Sequence classification: one label of several for a text.

Shapes: B batch, T time, L labels.
"""

import json
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lumbre.errors import DataError, ModelError
from lumbre.trainer import Batch, LossOutput, Term

from .base import Example, Task, TaskConfig


class ClassificationConfig(TaskConfig):
    """Which of several labels a text has; accuracy and macro F1."""

    type: Literal["classification"] = "classification"
    """The task's name."""
    text_field: str = "text"
    """The field of a record that holds the text."""
    label_field: str = "label"
    """The field that holds the label, a string or a number."""

    def build(self, model_path: str, examples: Mapping[str, Sequence[Example]]) -> "Classification":
        """Return the task.

        Raises DataError naming the record that lacks a field or the labels that cannot be learned, and
        ModelError where the model folder has no tokenizer.
        """
        for split, records in examples.items():
            for number, record in enumerate(records, start=1):
                for name in (self.text_field, self.label_field):
                    if record.get(name) is None:
                        fault = f"the field {name!r} is null" if name in record else f"has no field {name!r}"
                        begin = textwrap.shorten(json.dumps(record, ensure_ascii=False), 120)
                        raise DataError(f"{split} record {number}: {fault}: {begin}")
        labels = sorted({str(record[self.label_field]) for record in examples["train"]})
        if len(labels) < 2:
            raise DataError(f"train: every record has the label {labels[0]!r}; give records of two or more")
        for split, records in examples.items():
            unseen = sorted({str(record[self.label_field]) for record in records} - set(labels))
            if unseen:
                raise DataError(
                    f"{split}: labels {unseen} are not in the training split, which has {labels}; "
                    "add records of them there, or raise data.train_limit if that leaves them out"
                )
        return Classification(self, model_path, labels)


class Classification(Task):
    """Hugging Face's sequence classification head, trained with cross-entropy."""

    metrics = ("accuracy", "f1")

    def __init__(self, config: ClassificationConfig, model_path: str, labels: Sequence[str]) -> None:
        from transformers import AutoTokenizer

        self.labels = tuple(labels)
        with _explained(model_path):
            self.tokenizer = AutoTokenizer.from_pretrained(model_path)
            if len(self.tokenizer) <= len(self.tokenizer.all_special_tokens):
                # transformers makes up an empty tokenizer for a folder that has none.
                raise ValueError("it has no tokenizer")
            if self.tokenizer.pad_token_id is None:
                # GPT-2 has no token for padding; the attention mask hides whichever is used.
                self.tokenizer.pad_token = self.tokenizer.eos_token
            if self.tokenizer.pad_token_id is None:
                raise ValueError("its tokenizer has no token for padding")
        self._config = config
        self._number = {label: number for number, label in enumerate(labels)}

    def build_model(self, path: str, *, from_scratch: bool) -> nn.Module:
        """Return AutoModelForSequenceClassification of the folder, in training mode, with the labels' names.

        The head is new unless the folder has one for as many labels. Raises ModelError when the folder is
        no model that can classify, or lacks weights of the model below the head.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification
        from transformers.utils import logging

        names = dict(enumerate(self.labels))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        with _explained(path):
            config = AutoConfig.from_pretrained(
                path, num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
            )
            if len(self.tokenizer) > config.vocab_size:
                raise ValueError(f"{len(self.tokenizer)} tokens, and the model has {config.vocab_size}")
            if config.pad_token_id is None:
                config.pad_token_id = self.tokenizer.pad_token_id
            model: nn.Module
            if from_scratch:
                model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
            else:
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    path, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
                )
                _check_trunk(model, report["missing_keys"])
        # transformers gives a model with weights in evaluation mode, one without in training mode.
        return model.train()

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)

    def encode(self, example: Example) -> dict[str, np.ndarray]:
        """Return input_ids [T] and the label's number [1]."""
        text = str(example[self._config.text_field])
        ids = self.tokenizer(text, truncation=True, max_length=self._config.max_length)["input_ids"]
        label = self._number[str(example[self._config.label_field])]
        return {"input_ids": np.asarray(ids, dtype=np.int64), "labels": np.asarray([label])}

    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> Batch:
        """Return input_ids [B, T] and attention_mask [B, T], padded to the longest, and labels [B]."""
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids_BT = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        attention_mask_BT = torch.zeros((len(rows), longest), dtype=torch.int64)
        for at, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids_BT[at, :length] = torch.from_numpy(row["input_ids"])
            attention_mask_BT[at, :length] = 1
        labels_B = torch.tensor([int(row["labels"][0]) for row in rows])
        return {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT, "labels": labels_B}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of examples."""
        return {"loss": float(len(batch["labels"]))}

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens, padding not counted."""
        return int(batch["attention_mask"].sum())

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the cross-entropy in nats, summed over examples."""
        total = F.cross_entropy(self._logits(model, batch), batch["labels"], reduction="sum")
        return LossOutput({"loss": Term(total, float(len(batch["labels"])))})

    def predict(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest label and the loss of each example."""
        logits_BL = self._logits(model, batch)
        return logits_BL.argmax(dim=1), F.cross_entropy(logits_BL, batch["labels"], reduction="none")

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Return accuracy and macro F1, by scikit-learn."""
        from sklearn.metrics import accuracy_score, f1_score

        return {
            "accuracy": float(accuracy_score(targets, predictions)),
            "f1": float(f1_score(targets, predictions, average="macro")),
        }

    def _logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        logits_BL: torch.Tensor = output.logits
        return logits_BL.double() if logits_BL.dtype == torch.float64 else logits_BL.float()


def _check_trunk(model: nn.Module, missing: Collection[str]) -> None:
    """Raise ValueError where the folder lacks weights below the head: training would start from chance.

    BERT's pooler counts to the head; language models have none.
    """
    below = sorted(
        name for name in missing if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name
    )
    if below:
        raise ValueError(f"the weights lack {len(below)} tensors, such as {below[0]}")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn what transformers raises for a folder that does not fit into a ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path}: cannot be fine-tuned as a sequence classifier: {reason}; "
            "give a folder with config.json, model.safetensors and a tokenizer of a family in transformers"
        ) from error
