"""Span corruption: restore spans that were left out of a text (Raffel et al., 2019, arXiv:1910.10683).

Drawn as by `random_spans_noise_mask` of T5's code (3.1.4): kept and left-out parts take turns, a kept one
first, and every way to cut a document so is equally likely.

Shapes: T tokens of a row, S of a decoder's row, M of a document, K spans of a document.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import Problem, TokenizerError
from lumbre.models import NO_TARGET
from lumbre.tokenizer import Tokenizer, TokenizerConfig, TrainedConfig
from lumbre.trainer import Batch

from .base import Lengths, ModelKind, Objective, ObjectiveConfig, Row


class SpanCorruptionConfig(ObjectiveConfig):
    """Predict spans that the encoder reads as a sentinel each: T5's objective.

    "Thank you for inviting me to your party" is read as "Thank you <extra_id_0> me to your <extra_id_1>" and
    predicted is "<extra_id_0> for inviting <extra_id_1> party", then the end token.
    """

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("encoder-decoder",)

    type: Literal["span_corruption"] = "span_corruption"
    """The objective's name."""
    noise_density: float = Field(0.15, gt=0, lt=1)
    """Share of a document's tokens that are left out; its begin and end tokens never are."""
    mean_span_length: float = Field(3.0, ge=1)
    """Tokens per span; more in a document that would have more spans than there are sentinels."""
    min_document_length: int = Field(16, ge=2)
    """Fewest tokens of a document, or of a row's piece of one, that has targets; shorter ones are read. The
    decoder's rows have room for a row of such documents: with 2, they are five times as long as with 16."""

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield a tokenizer that is trained without sentinels, and rows in which nothing is long enough."""
        if isinstance(tokenizer, TrainedConfig) and not tokenizer.sentinels:
            fault = "objective span_corruption marks spans with sentinels, and there are none"
            yield Problem("tokenizer.sentinels", fault, "use 100, as T5")
        if seq_length < self.min_document_length:
            fault = f"shorter documents have no target, and rows have {seq_length} tokens"
            yield Problem("objective.min_document_length", fault, "lower it, or raise data.seq_length")

    def build(self, tokenizer: Tokenizer, seed: int) -> "SpanCorruption":
        """Return the objective; raises TokenizerError without sentinels, padding or a document's end."""
        if not tokenizer.sentinel_ids:
            raise TokenizerError(
                "objective span_corruption: the tokenizer has no <extra_id_0>; train one with "
                "tokenizer.sentinels=100"
            )
        if tokenizer.pad_id is None or not tokenizer.document_end:
            missing = "padding token to begin" if tokenizer.pad_id is None else "end token to end"
            raise TokenizerError(
                f"objective span_corruption: the tokenizer has no {missing} the decoder's documents with; "
                "use tokenizer.type=bpe"
            )
        return SpanCorruption(self, tokenizer, seed)


class SpanCorruption(Objective):
    """Each document of a row is corrupted by itself, and document n of the decoder restores document n."""

    inputs: tuple[str, ...] = (
        *Objective.inputs,
        "decoder_input_ids",
        "decoder_position_ids",
        "decoder_document_ids",
    )

    def __init__(self, config: SpanCorruptionConfig, tokenizer: Tokenizer, seed: int) -> None:
        assert tokenizer.pad_id is not None
        self._config = config
        self._seed = seed
        self._sentinels = np.array(tokenizer.sentinel_ids)
        self._pad = tokenizer.pad_id
        self._end = tokenizer.document_end

    def sizes(self, length: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Return how many tokens of documents of that many are left out, and in how many spans.

        There are at most as many spans as sentinels: beyond, the spans are longer and the share is the same.
        """
        config = self._config
        left_out = np.rint(length * config.noise_density).astype(np.int64)
        left_out = np.maximum(1, np.minimum(left_out, length - 1))
        spans = np.rint(left_out / config.mean_span_length).astype(np.int64)
        most = np.minimum(length - left_out, len(self._sentinels))
        return left_out, np.maximum(1, np.minimum(spans, most))

    def lengths(self, seq_length: int) -> Lengths:
        """Return seq_length for the encoder, and for the decoder what a row of any documents fits into.

        A sentinel takes the place of a token or more, so that no document grows. A document of M tokens has
        f(M) targets: those left out, a sentinel a span, and the end. The M of a row add up to seq_length at
        most, so that its targets do to seq_length x max f(M) / M. Expected are those of one document.
        """
        lengths = np.arange(self._config.min_document_length, seq_length + 1)
        left_out, spans = self.sizes(lengths)
        targets = left_out + spans + 1
        decoder_length = int((targets * seq_length // lengths).max())
        return Lengths(seq_length, decoder_length, int(targets[-1]) / decoder_length)

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Return the encoder's and the decoder's arrays and `labels`.

        A document's noise is a function of (seed, stream, sample), its number in the row and its length.
        """
        tokens_T, documents_T = row["input_ids"], row["document_ids"]
        sources, targets = {}, {}
        for start, stop in pairwise(np.flatnonzero(np.diff(documents_T, prepend=0, append=0))):
            number = int(documents_T[start])
            chance = distributed.random(self._seed, stream, sample, number)
            sources[number], targets[number] = self._corrupt(tokens_T[start:stop], chance)
        starts = {number: np.append(self._pad, target)[:-1] for number, target in targets.items()}
        T, S, _ = self.lengths(len(tokens_T))
        decoder = _filled(starts, S, self._pad)
        return {
            **_filled(sources, T, self._pad),
            **{f"decoder_{name}": array for name, array in decoder.items()},
            "labels": _filled(targets, S, NO_TARGET)["input_ids"],
        }

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens that encoder and decoder read, padding not counted."""
        return super().tokens(batch) + int((batch["decoder_document_ids"] != 0).sum())

    def _corrupt(self, document: np.ndarray, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return what the encoder reads of a document, and its targets."""
        # A begin token is always kept: the first part is.
        end = len(document) - int(document[-1] in self._end)
        text_M = document[:end]
        if len(text_M) < self._config.min_document_length:
            return document, text_M[:0]
        left_out, spans = (int(size) for size in self.sizes(len(text_M)))
        kept_K = _ends(len(text_M) - left_out, spans, chance)
        stops_K = _ends(left_out, spans, chance)
        starts_K = np.append(0, stops_K[:-1])
        turns_M = np.zeros(len(text_M) + 1, dtype=np.int8)
        turns_M[kept_K + starts_K] = 1
        turns_M[kept_K + stops_K] = -1
        noise_M = turns_M[:-1].cumsum() == 1
        sentinels_K = self._sentinels[:spans]
        source = np.insert(text_M[~noise_M], kept_K, sentinels_K)
        target = np.insert(text_M[noise_M], starts_K, sentinels_K)
        return np.append(source, document[end:]), np.append(target, self._end)


def _ends(length: int, parts: int, chance: np.random.Generator) -> np.ndarray:
    """Return where each of some non-empty parts of a length ends, every way to cut it equally likely."""
    cuts = np.sort(chance.choice(length - 1, parts - 1, replace=False)) + 1
    return np.append(cuts, length)


def _filled(documents: Mapping[int, np.ndarray], length: int, fill: int) -> Row:
    """Return the row of numbered documents one after another, the rest of `length` filled."""
    sizes = [len(tokens) for tokens in documents.values()]
    rest = length - sum(sizes)
    numbers = np.repeat([*documents, 0], [*sizes, rest])
    return {
        "input_ids": np.concatenate([*documents.values(), np.full(rest, fill)]),
        "position_ids": np.concatenate([*map(np.arange, sizes), np.zeros(rest, dtype=np.int64)]),
        "document_ids": numbers.astype(np.int32),
    }
