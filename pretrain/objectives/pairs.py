"""What next-sentence and sentence-order pairs share: [CLS] A [SEP] B [SEP], masked, and a label for the pair.

As google-research/bert's create_pretraining_data.py makes them: A and B are cut at a sentence's end, and
together they are the chunk of a document that fills a row, or in some samples a shorter one.

Shapes: T tokens of a row.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Protocol, cast

import numpy as np
import torch.nn.functional as F
from pydantic import Field

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import Problem, TokenizerError
from lumbre.models import (
    NO_TARGET,
    EncoderDecoder,
    ModelOutput,
    PairModel,
    Transformer,
    TransformerConfig,
    pair_flops_per_sample,
)
from lumbre.tokenizer import Tokenizer, TokenizerConfig
from lumbre.trainer import Batch, Term

from ..data.packing import Rows
from .base import ModelKind, Objective, ObjectiveConfig, Row
from .mlm import MlmConfig
from .sentences import Sentences
from .special import lacking_roles

ROLES = ("cls", "sep", "mask")
SPECIAL = 3
"""[CLS] and two [SEP]."""
PAIR = 1 << 32
"""The third counter of what is drawn for a pair; what is drawn to mask it has smaller ones."""


class DocumentRows(Rows, Protocol):
    """A split as rows that each hold one document or a piece of one."""

    def document(self, index: int) -> int:
        """Return the number of a row's document."""


class Pair(NamedTuple):
    """Two texts without special tokens."""

    first: np.ndarray
    second: np.ndarray
    label: int
    """0 where the second follows the first, 1 where it does not, -100 where there are no two texts."""


class PairConfig(ObjectiveConfig):
    """Masked language modelling of two texts, and whether the second follows the first."""

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("encoder",)
    packings: ClassVar[tuple[str, ...]] = ("pad",)

    mlm: MlmConfig = Field(default_factory=MlmConfig)
    """How the pair is masked."""
    short_probability: float = Field(0.1, ge=0, le=1)
    """Share of the samples that are cut to a random length, as what is read later may be short."""

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield special tokens that the tokenizer lacks, and rows too short for two texts."""
        yield from lacking_roles(self.type, ROLES, tokenizer)
        if seq_length < SPECIAL + 2:
            fault = f"{seq_length} tokens hold no two texts with [CLS] and two [SEP]"
            yield Problem("data.seq_length", fault, f"use {SPECIAL + 2} or more")

    def model_misfits(self, model: TransformerConfig) -> Iterator[Problem]:
        """Yield a model that cannot tell the two texts apart."""
        if model.token_types < 2:
            fault = f"{model.token_types} segment embeddings, and objective {self.type} marks two texts"
            yield Problem("model.token_types", fault, "use 2")


class Pairs(Objective):
    """Pairs, the pair head's loss beside the language model's."""

    term: ClassVar[str]
    """The name of the pair's loss."""

    def __init__(self, config: PairConfig, tokenizer: Tokenizer, seed: int) -> None:
        """Raises TokenizerError when there is no [CLS], [SEP] or mask token."""
        if tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise TokenizerError(
                f"objective {config.type}: the tokenizer has no [CLS] or no [SEP]; use "
                "tokenizer.type=wordpiece"
            )
        self._mlm = config.mlm.build(tokenizer, seed)
        self._short_probability = config.short_probability
        self._seed = seed
        self._cls, self._sep = tokenizer.cls_id, tokenizer.sep_id
        self._pad = tokenizer.pad_id or 0
        self._sentences = Sentences(tokenizer)
        self.targets_per_token = self._mlm.targets_per_token
        self.inputs = (*Objective.inputs, "token_type_ids")
        self.measured = ("loss", self.term)

    def sample(self, rows: Rows, index: int, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return row `index` as a pair, masked; the other rows are there for its second text."""
        return self._sample(rows.row(index), sample, stream, cast(DocumentRows, rows), index)

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return a row as a pair, masked, where there are no other rows."""
        return self._sample(row, sample, stream, None, 0)

    @abstractmethod
    def pair(
        self, text: np.ndarray, room: int, chance: np.random.Generator, rows: DocumentRows | None, index: int
    ) -> Pair:
        """Return a pair from the text of row `index` of `rows`, with some `room` for both of its texts."""

    def model(self, trunk: Transformer | EncoderDecoder) -> PairModel:
        """Return the trunk with the language-model head and the pair head."""
        assert isinstance(trunk, Transformer)
        return PairModel(trunk)

    def flops(self, config: TransformerConfig, seq_length: int) -> float:
        """Return the training FLOPs of one sample, the pair head's included."""
        return pair_flops_per_sample(config, seq_length, self.targets_per_token)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of targets, and that of pairs."""
        return {**super().counts(batch), self.term: float((batch["pair_labels"] != NO_TARGET).sum())}

    def terms(self, batch: Batch, output: ModelOutput) -> dict[str, Term]:
        """Return a language model's terms, and the pairs' cross-entropy in nats, summed over rows."""
        assert output.pair_logits is not None
        logits_B2, labels_B = output.pair_logits, batch["pair_labels"]
        logits_B2 = logits_B2 if logits_B2.dtype.itemsize >= 4 else logits_B2.float()
        total = F.cross_entropy(logits_B2, labels_B, ignore_index=NO_TARGET, reduction="sum")
        return {
            **super().terms(batch, output),
            self.term: Term(total, float((labels_B != NO_TARGET).sum())),
        }

    def text(self, row: Row) -> np.ndarray:
        """Return a row's tokens without those that begin and end a document, and without padding."""
        tokens_T = row["input_ids"][row["document_ids"] != 0]
        text: np.ndarray = tokens_T[(tokens_T != self._cls) & (tokens_T != self._sep)]
        return text

    def until(self, text: np.ndarray, least: int) -> np.ndarray:
        """Return whole sentences from the text's begin that have so many tokens together, or all of it."""
        ends = self._sentences.ends(text)
        enough = ends[ends >= least]
        return text[: enough[0]] if len(enough) else text

    def starts(self, text: np.ndarray) -> np.ndarray:
        """Return where sentences begin."""
        return np.concatenate([[0], self._sentences.ends(text)])

    def cut(self, text: np.ndarray, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the two parts of a text of two tokens or more, cut where some sentence ends.

        Where none does it is cut anywhere.
        """
        ends = self._sentences.ends(text)
        at = int(chance.choice(ends)) if len(ends) else int(chance.integers(1, len(text)))
        return text[:at], text[at:]

    def _sample(self, row: Row, sample: int, stream: Stream, rows: DocumentRows | None, index: int) -> Row:
        T = len(row["input_ids"])
        room = T - SPECIAL
        chance = distributed.random(self._seed, stream, sample, PAIR)
        text = self.text(row)
        if chance.random() < self._short_probability:
            text = self.until(text, int(chance.integers(2, room + 1)))
        first, second, label = self.pair(text, room, chance, rows, index)
        first, second = _truncated(first, second, room, chance)
        return {
            **self._mlm.apply(self._row(first, second, T), sample, stream),
            "pair_labels": np.array(label, dtype=np.int64),
        }

    def _row(self, first: np.ndarray, second: np.ndarray, length: int) -> Row:
        """Return the row of two texts; to attention, both and their special tokens are one document."""
        tokens = np.concatenate([[self._cls], first, [self._sep], second, [self._sep]])
        rest = length - len(tokens)
        types = np.repeat([0, 1, 0], [len(first) + 2, len(second) + 1, rest])
        return {
            "input_ids": np.append(tokens, np.full(rest, self._pad)).astype(np.int64),
            "position_ids": np.append(np.arange(len(tokens)), np.zeros(rest, dtype=np.int64)),
            "document_ids": np.repeat(np.array([1, 0], dtype=np.int32), [len(tokens), rest]),
            "token_type_ids": types.astype(np.int64),
        }


def _truncated(
    first: np.ndarray, second: np.ndarray, room: int, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Take tokens off the longer text, at its front or its back by chance, until both fit into the room."""
    excess = max(0, len(first) + len(second) - room)
    for front in chance.random(excess) < 0.5:
        part = slice(1, None) if front else slice(None, -1)
        if len(first) > len(second):
            first = first[part]
        else:
            second = second[part]
    return first, second
