"""Causal language modelling: predict the next token of the same document (Radford et al., 2018)."""

from typing import ClassVar, Literal

import numpy as np

from lumbre.distributed import Stream
from lumbre.models import NO_TARGET
from lumbre.tokenizer import Tokenizer

from .base import ModelKind, Objective, ObjectiveConfig, Row


class ClmConfig(ObjectiveConfig):
    """Predict each token from those before it: a decoder's objective."""

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("decoder",)

    type: Literal["clm"] = "clm"
    """The objective's name."""

    def build(self, tokenizer: Tokenizer, seed: int) -> "Clm":
        """Return the objective; it draws nothing."""
        return Clm()


class Clm(Objective):
    """Every token but a document's first is a target, at the position before it."""

    targets_per_token = 1.0

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Add the next token as the label; a document's last token in the row has none."""
        tokens_T, documents_T = row["input_ids"], row["document_ids"]
        labels_T = np.full_like(tokens_T, NO_TARGET)
        same_T = (documents_T[1:] == documents_T[:-1]) & (documents_T[1:] != 0)
        labels_T[:-1] = np.where(same_T, tokens_T[1:], NO_TARGET)
        return {**row, "labels": labels_T}
