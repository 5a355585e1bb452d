"""Where sentences end in a row of tokens: behind sentence-final punctuation and what closes with it.

Shapes: T tokens, V vocabulary.
"""

import numpy as np

from lumbre.tokenizer import Tokenizer

FINAL = frozenset(".!?\u2026\u3002\uff01\uff1f\u061f\u0964\n")
"""A full stop, exclamation and question mark, in several scripts, and a line's end where tokens hold one."""
CLOSING = frozenset("\"')]}\u2019\u201d\u00bb\u300d")
"""Quotes and brackets that belong to the sentence before them."""


class Sentences:
    """A table over the vocabulary: which tokens end a sentence, and which only close one that has ended."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._final_V = np.zeros(tokenizer.vocab_size, dtype=bool)
        self._closing_V = np.zeros(tokenizer.vocab_size, dtype=bool)
        special = tokenizer.special_ids
        for number in tokenizer.backend.get_vocab(with_added_tokens=True).values():
            text = frozenset(
                tokenizer.decode([number], skip_special_tokens=False).removeprefix("##").strip(" ")
            )
            if text and number not in special:
                self._closing_V[number] = text <= CLOSING
                self._final_V[number] = text <= FINAL | CLOSING and not text <= CLOSING

    def ends(self, tokens_T: np.ndarray) -> np.ndarray:
        """Return how many tokens lie before each sentence's end, increasing; that of the last is left out."""
        final_T, closing_T = self._final_V[tokens_T], self._closing_V[tokens_T]
        time_T = np.arange(len(tokens_T))
        last_T = np.maximum.accumulate(np.where(closing_T, -1, time_T))
        over_T = (last_T >= 0) & final_T[last_T]
        goes_on_T = final_T | closing_T
        return np.flatnonzero(over_T[:-1] & ~goes_on_T[1:]) + 1
