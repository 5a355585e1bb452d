"""Masked language modelling (Devlin et al., 2019, arXiv:1810.04805, 3.1), masks drawn anew each epoch.

Shapes: T tokens of a row.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import Problem, TokenizerError
from lumbre.models import NO_TARGET
from lumbre.tokenizer import Tokenizer, TokenizerConfig

from .base import ModelKind, Objective, ObjectiveConfig, Row
from .masking import Chosen, SpanLaw, whole_words, word_spans, word_starts, words
from .special import lacking_roles


class MlmConfig(ObjectiveConfig):
    """Predict masked tokens from both sides: an encoder's objective."""

    model_kinds: ClassVar[tuple[ModelKind, ...]] = ("encoder",)

    type: Literal["mlm"] = "mlm"
    """The objective's name."""
    mask_probability: float = Field(0.15, gt=0, lt=1)
    """Share of tokens that are predicted; special tokens never are."""
    replace_with_mask: float = Field(0.8, ge=0, le=1)
    """Share of the predicted tokens that the model sees as the mask token."""
    replace_with_random: float = Field(0.1, ge=0, le=1)
    """Share of them that it sees as a random token; it sees the rest as they are."""
    masking: Literal["token", "whole_word", "span"] = "token"
    """What is chosen: each token on its own, all pieces of a word, or spans of words as SpanBERT, which are
    replaced as a whole."""
    span_decay: float = Field(0.2, gt=0, lt=1)
    """Probability that a span ends at a word: lengths are geometric."""
    longest_span: PositiveInt = 10
    """Most words of a span."""

    def misfits(self, tokenizer: TokenizerConfig, seq_length: int) -> Iterator[Problem]:
        """Yield a tokenizer without a mask token."""
        yield from lacking_roles(self.type, ("mask",), tokenizer)

    def build(self, tokenizer: Tokenizer, seed: int) -> "Mlm":
        """Return the objective; raises TokenizerError when there is no mask token, or nothing marks words."""
        if tokenizer.mask_id is None:
            raise TokenizerError(
                "objective mlm: the tokenizer has no mask token; use tokenizer.type=wordpiece, or name "
                "<mask> in tokenizer.special_tokens"
            )
        return Mlm(self, tokenizer, seed)


class Mlm(Objective):
    """80/10/10 masking of tokens, words or spans."""

    def __init__(self, config: MlmConfig, tokenizer: Tokenizer, seed: int) -> None:
        assert tokenizer.mask_id is not None
        self._config = config
        self._seed = seed
        self._mask_id = tokenizer.mask_id
        self._special_ids = np.array(sorted(tokenizer.special_ids))
        self._ordinary_ids = np.setdiff1d(np.arange(tokenizer.vocab_size), self._special_ids)
        self._starts = None if config.masking == "token" else word_starts(tokenizer)
        if self._starts is None and config.masking != "token":
            raise TokenizerError(
                f"objective mlm: masking is {config.masking}, and the tokenizer does not mark where words "
                "begin; use objective.masking=token"
            )
        self._law = SpanLaw(config.mask_probability, config.span_decay, config.longest_span)
        self.targets_per_token = config.mask_probability

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Mask the row; `labels` hold what stood there."""
        config = self._config
        tokens_T = row["input_ids"]
        chance = distributed.random(self._seed, stream, sample)
        chosen_T, fate_T = chance.random((2, len(tokens_T)))
        other_T = chance.choice(self._ordinary_ids, len(tokens_T))
        ordinary_T = (row["document_ids"] != 0) & ~np.isin(tokens_T, self._special_ids)
        target_T, leader_T = self._choose(row, ordinary_T, chosen_T, chance)
        fate_T = fate_T[leader_T]
        mask_T = target_T & (fate_T < config.replace_with_mask)
        random_T = target_T & ~mask_T & (fate_T < config.replace_with_mask + config.replace_with_random)
        return {
            **row,
            "input_ids": np.where(mask_T, self._mask_id, np.where(random_T, other_T, tokens_T)),
            "labels": np.where(target_T, tokens_T, NO_TARGET),
        }

    def _choose(
        self, row: Row, ordinary_T: np.ndarray, chosen_T: np.ndarray, chance: np.random.Generator
    ) -> Chosen:
        """Return what is predicted, from a draw for each token; spans take another for their length."""
        share = self._config.mask_probability
        if self._starts is None:
            return Chosen((chosen_T < share) & ordinary_T, np.arange(len(chosen_T)))
        found = words(row["input_ids"], row["document_ids"], ordinary_T, self._starts)
        if self._config.masking == "whole_word":
            return whole_words(found, chosen_T, share)
        return word_spans(found, chosen_T, chance.random(len(chosen_T)), self._law)
