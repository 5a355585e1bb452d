"""What an objective is: the targets and the noise of each sample, and the loss on them.

Shapes: B batch, T time, M targets, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from lumbre.config import Choice
from lumbre.distributed import Stream
from lumbre.errors import Problem
from lumbre.models import (
    NO_TARGET,
    Detector,
    Electra,
    EncoderDecoder,
    LanguageModel,
    ModelOutput,
    Transformer,
    TransformerConfig,
    flops_per_sample,
)
from lumbre.tokenizer import Tokenizer, TokenizerConfig
from lumbre.trainer import Batch, LossOutput, Term

from ..data.packing import Rows

Row = Mapping[str, np.ndarray]
"""One sample as arrays [T]: input_ids, position_ids, document_ids; an objective adds labels, and for an
encoder-decoder the same three of its decoder, which are the labels' length."""

ModelKind = Literal["encoder", "decoder", "encoder-decoder"]


class Lengths(NamedTuple):
    """What a row is to the model, for the FLOP count."""

    seq_length: int
    """Tokens of the row; of an encoder-decoder, the encoder's."""
    decoder_length: int
    """Tokens of the decoder's row; 0 where there is one stack."""
    targets_per_token: float
    """Expected share of the positions that have a target; of an encoder-decoder, the decoder's."""


class Objective(ABC):
    """What is predicted from what. `labels` are aligned with the inputs: the loss shifts nothing."""

    targets_per_token: float
    """Expected share of positions that have a target."""
    inputs: tuple[str, ...] = ("input_ids", "position_ids", "document_ids", "labels")
    """The arrays of a row that the model is given, by the names of its arguments."""
    sources: tuple[str, ...] = ()
    """The sets of a mixture, in the order of the numbers in batch["source"]; each one's loss is reported."""
    measured: tuple[str, ...] = ("loss",)
    """The terms that an evaluation reports."""
    remark: str = ""
    """What the card of its models says beside how they are loaded."""
    _balance_weight: float | None = None
    """Weight of the experts' balance loss; None where the model has no experts."""
    _layers = 0

    def sample(self, rows: Rows, index: int, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return row `index` of `rows` as sample `sample` of the stream: a pure function of the arguments.

        An objective that puts several rows together reads the others here.
        """
        return self.apply(rows.row(index), sample, stream)

    @abstractmethod
    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return the row with `labels`, its inputs noised: a pure function of the arguments."""

    def lengths(self, seq_length: int) -> Lengths:
        """Return how long the model's rows are for rows of `seq_length` tokens, the same for every row."""
        return Lengths(seq_length, 0, self.targets_per_token)

    def flops(self, config: TransformerConfig, seq_length: int) -> float:
        """Return the training FLOPs of one sample on a model, for rows of `seq_length` tokens."""
        return flops_per_sample(config, *self.lengths(seq_length))

    def attach_head(self, trunk: Transformer | EncoderDecoder) -> LanguageModel | Electra:
        """Return the trunk with the heads that the objective trains."""
        mixture = trunk.config.mixture
        self._balance_weight = None if mixture is None else mixture.balance_weight
        self._layers = trunk.config.num_layers + trunk.config.num_decoder_layers
        return self.model(trunk)

    def model(self, trunk: Transformer | EncoderDecoder) -> LanguageModel | Electra:
        """Return the model that the objective trains around a trunk."""
        return LanguageModel(trunk)

    def exports(self, model: nn.Module) -> dict[str, LanguageModel | Detector]:
        """Return what of a model is written to a folder, by the ending of the folder's name."""
        assert isinstance(model, LanguageModel)
        return {"": model}

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of targets, with experts that of rows times layers, and each source's targets."""
        targets_BT = batch["labels"] != NO_TARGET
        counts = {"loss": float(targets_BT.sum())}
        if self._balance_weight is not None:
            counts["balance"] = float(len(batch["labels"]) * self._layers)
        return counts | (self._by_source(batch, targets_BT.sum(dim=1)) if self.sources else {})

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens, padding not counted."""
        return int((batch["document_ids"] != 0).sum())

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Run the model; return each term as a sum."""
        output = model(**{name: batch[name] for name in self.inputs})
        return LossOutput(self.terms(batch, output), output.losses)

    def terms(self, batch: Batch, output: ModelOutput) -> dict[str, Term]:
        """Return the cross-entropy in nats, summed over targets, the experts' balance loss, and each source's
        cross-entropy, which adds nothing to the gradient."""
        assert output.loss is not None
        assert output.losses is not None
        counts = self.counts(batch)
        terms = {"loss": Term(output.loss, counts["loss"])}
        if self._balance_weight is not None and output.balance is not None:
            terms["balance"] = Term(output.balance, counts["balance"], self._balance_weight)
        return terms | self.source_terms(batch, output.losses, counts)

    def source_terms(
        self, batch: Batch, losses_M: torch.Tensor, counts: Mapping[str, float]
    ) -> dict[str, Term]:
        """Return the losses of the targets, row after row, summed by source, as terms without weight."""
        if not self.sources:
            return {}
        rows_M = (batch["labels"] != NO_TARGET).nonzero()[:, 0]
        losses_B = losses_M.new_zeros(len(batch["labels"])).index_add_(0, rows_M, losses_M)
        sums = self._by_source(batch, losses_B)
        return {name: Term(total, counts[name], weight=0.0) for name, total in sums.items()}

    def _by_source(self, batch: Batch, values_B: torch.Tensor) -> dict[str, Any]:
        return {
            f"source/{name}": values_B[batch["source"] == number].sum()
            for number, name in enumerate(self.sources)
        }


class ObjectiveConfig(Choice):
    """What the model learns to predict."""

    model_kinds: ClassVar[tuple[ModelKind, ...]]
    """What kinds of model the objective trains."""
    packings: ClassVar[tuple[str, ...]] = ()
    """The packings that it can read rows of; none named is any."""

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield what the objective needs of the tokenizer and the rows and does not find."""
        yield from ()

    def model_misfits(self, model: TransformerConfig) -> Iterator[Problem]:
        """Yield what the objective needs of a model of the right kind and does not find."""
        yield from ()

    def stacks(self, model: TransformerConfig) -> Mapping[str, TransformerConfig]:
        """Return each model that is trained, by what it is called in an error."""
        return {"the model": model}

    def longest(self, seq_length: int, kind: ModelKind) -> int:
        """Return the most tokens that one stack of the model reads of a row of `seq_length` tokens."""
        return seq_length

    def build(self, tokenizer: Tokenizer, seed: int) -> Objective:
        """Return the objective; its noise is a function of (seed, sample)."""
        raise NotImplementedError
