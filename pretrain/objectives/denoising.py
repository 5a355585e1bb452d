"""What objectives share that split each document into what is read and what is predicted.

An encoder-decoder reads with its encoder and predicts with its decoder. A decoder has both in one row, sees
what it reads in both directions, and predicts the rest (Raffel et al., 2019, arXiv:1910.10683, 3.2.1).

Shapes: T tokens of a row, S of a decoder's row beside an encoder's, L documents.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from typing import ClassVar

import numpy as np
from pydantic import Field

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import Problem, TokenizerError
from lumbre.models import NO_TARGET, EncoderDecoder, LanguageModel, Transformer
from lumbre.tokenizer import Tokenizer, TokenizerConfig, TrainedConfig
from lumbre.trainer import Batch

from .base import Lengths, ModelKind, Objective, ObjectiveConfig, Row
from .denoiser import Denoiser
from .rows import documents, filled, packed
from .special import missing, special_id

REMARK = """\
It was trained to see what it is given in both directions, and to go on from there. As a plain decoder it
reads a prompt from left to right, which it was not trained to do; our own model of this folder
(`lumbre.hub.load`) takes a `prefix_mask` with the input."""
DECODER = ("decoder_input_ids", "decoder_position_ids", "decoder_document_ids")


class DenoisingConfig(ObjectiveConfig):
    """What these objectives share."""

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("encoder-decoder", "decoder")

    min_document_length: int = Field(16, ge=2)
    """Fewest tokens of a document, or of a row's piece of one, that has targets; shorter ones are read. Rows
    have room for any such documents: those of a T5 with 2 are five times as long as with 16."""

    @property
    @abstractmethod
    def mixture(self) -> Sequence[Denoiser]:
        """Those of which each document gets one, drawn by their rates."""

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield what a trained tokenizer will lack, and rows in which nothing is long enough."""
        if isinstance(tokenizer, TrainedConfig):
            if not tokenizer.sentinels and self._has_spans:
                fault = f"objective {self.type} marks spans with sentinels, and there are none"
                yield Problem("tokenizer.sentinels", fault, "use 100, as T5")
            yield from missing(self.type, self.modes, tokenizer)
        if seq_length < self.min_document_length:
            fault = f"shorter documents have no target, and rows have {seq_length} tokens"
            yield Problem("objective.min_document_length", fault, "lower it, or raise data.seq_length")

    def longest(self, seq_length: int, kind: ModelKind) -> int:
        """Return the longer of a stack's rows, as if there were a sentinel for every span."""
        return max(row_lengths(self, seq_length, kind != "decoder")[:2])

    def build(self, tokenizer: Tokenizer, seed: int) -> "Denoising":
        """Return the objective; raises TokenizerError without sentinels, modes or a document's end."""
        if self._has_spans and not tokenizer.sentinel_ids:
            raise TokenizerError(
                f"objective {self.type}: the tokenizer has no <extra_id_0>; train one with "
                "tokenizer.sentinels=100"
            )
        if self._has_spans and not tokenizer.document_end:
            raise TokenizerError(
                f"objective {self.type}: the tokenizer has no end token to end targets with; "
                "use tokenizer.type=bpe"
            )
        return Denoising(self, tokenizer, seed)

    @property
    def modes(self) -> list[str]:
        """The mode tokens, each once."""
        return list(dict.fromkeys(one.mode for one in self.mixture if one.mode is not None))

    @property
    def _has_spans(self) -> bool:
        return any(one.mean_span_length is not None for one in self.mixture)


class Denoising(Objective):
    """Each document of a row is split by itself; document n of a decoder answers document n of its encoder.

    Rows are an encoder-decoder's until `attach_head` is given a decoder.
    """

    def __init__(self, config: DenoisingConfig, tokenizer: Tokenizer, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._mixture = config.mixture
        rates = np.array([one.rate for one in self._mixture])
        self._rates = rates / rates.sum()
        self._modes = {mode: special_id(config.type, mode, tokenizer) for mode in config.modes}
        self._sentinels = np.array(tokenizer.sentinel_ids, dtype=np.int64)
        self._pad = tokenizer.pad_id
        self._end = tokenizer.document_end
        self._arrange(two_stacks=True)

    def model(self, trunk: Transformer | EncoderDecoder) -> LanguageModel:
        """Return the trunk with its head, and from now on rows for a model of its kind.

        Raises TokenizerError where an encoder-decoder's rows need a token that the tokenizer does not have.
        """
        self._arrange(isinstance(trunk, EncoderDecoder))
        if self._two_stacks and (self._pad is None or not self._end):
            missing = "padding token to begin" if self._pad is None else "end token to end"
            raise TokenizerError(
                f"objective {self._config.type}: the tokenizer has no {missing} an encoder-decoder's "
                "documents with; use tokenizer.type=bpe"
            )
        return LanguageModel(trunk)

    def lengths(self, seq_length: int) -> Lengths:
        """Return what a row of any documents fits into; expected are the targets of one document."""
        return self._lengths(seq_length)

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return the arrays of the one stack or of both, and `labels`.

        A document's noise is a function of (seed, stream, sample), its number in the row and its length.
        """
        tokens_T = row["input_ids"]
        sources, targets = {}, {}
        for number, place in documents(row["document_ids"]):
            chance = distributed.random(self._seed, stream, sample, number)
            sources[number], targets[number] = self._split(tokens_T[place], chance)
        lengths = self.lengths(len(tokens_T))
        fill = 0 if self._pad is None else self._pad
        if self._two_stacks:
            starts = {number: np.append(fill, target)[:-1] for number, target in targets.items()}
            decoder = packed(starts, lengths.decoder_length, fill)
            return {
                **packed(sources, lengths.seq_length, fill),
                **{f"decoder_{name}": array for name, array in decoder.items()},
                "labels": filled(targets.values(), lengths.decoder_length, NO_TARGET),
            }
        both = {number: np.append(source, targets[number]) for number, source in sources.items()}
        labels = [_next(len(source), targets[number]) for number, source in sources.items()]
        prefixes = [np.arange(len(both[number])) < len(source) for number, source in sources.items()]
        return {
            **packed(both, lengths.seq_length, fill),
            "prefix_mask": filled(prefixes, lengths.seq_length, False),
            "labels": filled(labels, lengths.seq_length, NO_TARGET),
        }

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens that the model reads, padding not counted."""
        decoder = int((batch["decoder_document_ids"] != 0).sum()) if self._two_stacks else 0
        return super().tokens(batch) + decoder

    def _arrange(self, two_stacks: bool) -> None:
        """Make rows for an encoder-decoder, or for a decoder alone."""
        self._two_stacks = two_stacks
        self.inputs = (*Objective.inputs, *(DECODER if two_stacks else ("prefix_mask",)))
        self.remark = "" if two_stacks else REMARK
        sizes = partial(row_lengths, self._config, two_stacks=two_stacks, sentinels=len(self._sentinels))
        self._lengths = cache(sizes)

    def _split(self, document: np.ndarray, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return what is read of a document, and what is predicted."""
        text = len(document) - int(document[-1] in self._end)
        if text < self._config.min_document_length:
            return document, document[:0]
        one = self._mixture[chance.choice(len(self._mixture), p=self._rates) if len(self._mixture) > 1 else 0]
        source, target = one.split(document, self._sentinels, self._end, chance)
        mode = () if one.mode is None else (self._modes[one.mode],)
        end = self._end if self._two_stacks and one.mean_span_length is None else ()
        return np.concatenate([mode, source, end]).astype(document.dtype), target


def row_lengths(
    config: DenoisingConfig, seq_length: int, two_stacks: bool, sentinels: int | None = None
) -> Lengths:
    """Return how long rows are for rows of `seq_length` tokens; without `sentinels` there are any number.

    Where a document of M tokens becomes f(M) of them at most, those of a row, which have seq_length
    together, become no more than seq_length x max f(M) / M.
    """
    lengths_L = np.arange(min(config.min_document_length, seq_length), seq_length + 1)
    sizes = [one.sizes(lengths_L, seq_length if sentinels is None else sentinels) for one in config.mixture]
    # An encoder reads an end token after the beginning of a document.
    ends = [int(one.mean_span_length is None) for one in config.mixture]
    rates = np.array([one.rate for one in config.mixture])
    expected = float(np.average([one.expected_L[-1] for one in sizes], weights=rates))

    def room(tokens: Iterable[np.ndarray]) -> int:
        return max(int((most_L * seq_length // lengths_L).max()) for most_L in tokens)

    if not two_stacks:
        length = max(seq_length, room(one.both_L for one in sizes))
        return Lengths(length, 0, expected / length)
    length = room(one.source_L + end for one, end in zip(sizes, ends, strict=True))
    decoder_length = max(1, room(one.target_L for one in sizes))
    return Lengths(max(seq_length, length), decoder_length, expected / decoder_length)


def _next(read: int, target: np.ndarray) -> np.ndarray:
    """Return the labels of a decoder's document: what is read last predicts the target's first token."""
    return np.concatenate([np.full(read - 1, NO_TARGET), target, [NO_TARGET]])
