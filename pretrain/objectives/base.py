"""What an objective is: the targets and the noise of each sample, and the loss on them.

Shapes: B batch, T time, M targets, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lumbre.config import Choice
from lumbre.distributed import Stream
from lumbre.models import LanguageModel, Transformer
from lumbre.tokenizer import Tokenizer
from lumbre.trainer import Batch, LossOutput, Term

Row = Mapping[str, np.ndarray]
"""One sample as arrays [T]: input_ids, position_ids, document_ids; an objective adds labels."""

NO_TARGET = -100


class Objective(ABC):
    """What is predicted from what. `labels` are aligned with the inputs: the loss shifts nothing."""

    targets_per_token: float
    """Expected share of positions that have a target, for the FLOP count."""

    @abstractmethod
    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return the row with `labels`, its inputs noised: a pure function of the arguments."""

    def attach_head(self, trunk: Transformer) -> LanguageModel:
        """Return the trunk with the head that the objective trains."""
        return LanguageModel(trunk)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of targets."""
        return {"loss": float((batch["labels"] != NO_TARGET).sum())}

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens, padding not counted."""
        return int((batch["document_ids"] != 0).sum())

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the cross-entropy in nats, summed over targets; the head runs at targets alone."""
        predict_BT = batch["labels"] != NO_TARGET
        output = model(
            batch["input_ids"],
            position_ids=batch["position_ids"],
            document_ids=batch["document_ids"],
            predict=predict_BT,
        )
        labels_M = batch["labels"][predict_BT]
        logits_MV = output.logits
        if logits_MV.dtype != torch.float64:
            logits_MV = logits_MV.float()
        total = F.cross_entropy(logits_MV, labels_M, reduction="sum")
        return LossOutput({"loss": Term(total, float(len(labels_M)))})


class ObjectiveConfig(Choice):
    """What the model learns to predict."""

    needs_causal: ClassVar[bool]
    """Whether the objective is for decoders (true) or for encoders (false)."""

    def build(self, tokenizer: Tokenizer, seed: int) -> Objective:
        """Return the objective; its noise is a function of (seed, sample)."""
        raise NotImplementedError
