"""Filling in the middle: a causal model learns what stands between two texts (Bavarian et al., 2022).

arXiv:2207.14255, at the level of contexts and tokens: documents of a packed row are cut at two places drawn
uniformly and put in another order. Shapes: T tokens of a row, M of a document.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import Problem
from lumbre.tokenizer import Tokenizer, TokenizerConfig, TrainedConfig

from .base import ModelKind, ObjectiveConfig, Row
from .clm import Clm
from .rows import documents
from .special import missing, special_id

SENTINELS = 3


class FimConfig(ObjectiveConfig):
    """Predict each token from those before it, where the middle of some documents stands at their end.

    A document is read as "<fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle", or with its prefix
    before the middle: "<fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle".
    """

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("decoder",)

    type: Literal["fim"] = "fim"
    """The objective's name."""
    fim_rate: float = Field(0.5, ge=0, le=1)
    """Share of the documents that are put in another order."""
    spm_rate: float = Field(0.5, ge=0, le=1)
    """Share of those that begin with the suffix."""
    prefix_token: str = "<fim_prefix>"
    """Special token before the prefix."""
    middle_token: str = "<fim_middle>"
    """Special token before the middle."""
    suffix_token: str = "<fim_suffix>"
    """Special token before the suffix."""
    min_document_length: int = Field(16, ge=SENTINELS + 1)
    """Fewest tokens of a document, or of a row's piece of one, that is put in another order. It stays as long
    as it is: its text loses three tokens at the end of the suffix to the special ones."""

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield special tokens that a trained tokenizer will lack, and two of one name."""
        if len(set(self.tokens)) < SENTINELS:
            fault = f"prefix, middle and suffix are marked by {', '.join(self.tokens)}"
            yield Problem("objective.prefix_token", fault, "give each a name of its own")
        elif isinstance(tokenizer, TrainedConfig):
            yield from missing(self.type, self.tokens, tokenizer)

    @property
    def tokens(self) -> list[str]:
        """The special tokens of prefix, middle and suffix."""
        return [self.prefix_token, self.middle_token, self.suffix_token]

    def build(self, tokenizer: Tokenizer, seed: int) -> "Fim":
        """Return the objective; raises TokenizerError where the tokenizer lacks a special token."""
        return Fim(self, tokenizer, seed)


class Fim(Clm):
    """Documents in order or with their middle at the end, each as long as it was, then the next token."""

    def __init__(self, config: FimConfig, tokenizer: Tokenizer, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._ids = [special_id(config.type, name, tokenizer) for name in config.tokens]
        self._begin = tokenizer.document_begin
        self._end = tokenizer.document_end

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Put documents in another order, and add the next token of each as the label.

        A document's order is a function of (seed, stream, sample), its number in the row and its length.
        """
        tokens_T = row["input_ids"].copy()
        for number, place in documents(row["document_ids"]):
            chance = distributed.random(self._seed, stream, sample, number)
            tokens_T[place] = self._reordered(tokens_T[place], chance)
        return super().apply({**row, "input_ids": tokens_T}, sample, stream)

    def _reordered(self, document_M: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        """Return the document with its middle at the end, or as it is."""
        config = self._config
        begin, stop = int(document_M[0] in self._begin), len(document_M) - int(document_M[-1] in self._end)
        fim, spm = chance.random(2)
        if stop - begin < config.min_document_length or fim >= config.fim_rate:
            return document_M
        text_M = document_M[begin : stop - SENTINELS]
        low, high = np.sort(chance.integers(0, len(text_M), 2, endpoint=True))
        before, middle, after = ([number] for number in self._ids)
        parts = [before, text_M[:low], after, text_M[high:], middle]
        if spm < config.spm_rate:
            parts = [before, after, text_M[high:], middle, text_M[:low]]
        return np.concatenate([document_M[:begin], *parts, text_M[low:high], document_M[stop:]])
