"""Sentence-order prediction beside masked language modelling (ALBERT, Lan et al., 2019, arXiv:1909.11942)."""

from typing import Literal

import numpy as np

from lumbre.models import NO_TARGET
from lumbre.tokenizer import Tokenizer

from .pairs import DocumentRows, Pair, PairConfig, Pairs


class SentenceOrderConfig(PairConfig):
    """Masked tokens, and whether two parts of a text come in their order or are swapped: ALBERT's."""

    type: Literal["sentence_order"] = "sentence_order"
    """The objective's name."""

    def build(self, tokenizer: Tokenizer, seed: int) -> "SentenceOrder":
        """Return the objective; raises TokenizerError when there is no [CLS], [SEP] or mask token."""
        return SentenceOrder(self, tokenizer, seed)


class SentenceOrder(Pairs):
    """In half of the pairs the two parts are swapped; a text too short to cut has no order to tell."""

    term = "sentence_order"

    def pair(
        self, text: np.ndarray, room: int, chance: np.random.Generator, rows: DocumentRows | None, index: int
    ) -> Pair:
        """Return the text's two parts, or the second before the first."""
        if len(text) < 2:
            return Pair(text, text[:0], NO_TARGET)
        first, second = self.cut(text, chance)
        return Pair(first, second, 0) if chance.random() < 0.5 else Pair(second, first, 1)
