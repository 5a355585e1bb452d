"""What the tokenizers that learn from the corpus share."""

from collections.abc import Iterator
from typing import ClassVar

import tokenizers
from pydantic import Field, NonNegativeInt, PositiveInt

from lumbre.errors import Problem

from .base import NAMING, SENTINEL, SPECIAL_NAME, Tokenizer, TokenizerConfig, usual_roles
from .normalization import Step

LEAST_VOCABULARY = 512


class TrainedConfig(TokenizerConfig):
    """What tokenizers that learn from the corpus share."""

    roles: ClassVar[dict[str, str]]
    """The token that plays each role."""

    vocab_size: PositiveInt = Field(default=8192, ge=LEAST_VOCABULARY)
    """Most tokens that it may have, special ones included; a small corpus gives fewer."""
    train_bytes: PositiveInt = 1 << 25
    """How much of the corpus it learns from, as a sample spread evenly over it."""
    normalization: tuple[Step, ...] = ()
    """What is done to text first, in order; `nmt` and `collapse_spaces` tidy spaces as SentencePiece does."""
    sentinels: NonNegativeInt = 0
    """Special tokens <extra_id_0>, <extra_id_1>, ... for span corruption; T5 has 100."""
    special_tokens: tuple[str, ...] = ()
    """Further special tokens, say <|user|>; one named <mask>, [CLS] or the like plays that role."""

    @property
    def sample_bytes(self) -> int:
        return self.train_bytes

    @property
    def sentinel_names(self) -> list[str]:
        """The sentinels, in order."""
        return [SENTINEL.format(number) for number in range(self.sentinels)]

    @property
    def special_names(self) -> list[str]:
        """Every special token, in order: those of roles, sentinels, further ones."""
        return [*dict.fromkeys(self.roles.values()), *self.sentinel_names, *self.special_tokens]

    def problems(self) -> Iterator[Problem]:
        """Report special tokens that leave too little of the vocabulary, or that text could be."""
        for key, number in ("sentinels", self.sentinels), ("special_tokens", len(self.special_tokens)):
            if self.vocab_size - number < LEAST_VOCABULARY:
                fault = f"{number} of {self.vocab_size} tokens leave fewer than {LEAST_VOCABULARY}"
                yield Problem(key, fault, f"use vocab_size {number + LEAST_VOCABULARY} or more")
        names = self.special_names
        for index, name in enumerate(self.special_tokens):
            key = f"special_tokens.{index}"
            if names.index(name) < len(names) - len(self.special_tokens) + index:
                yield Problem(key, f"{name!r} is a special token already", "leave it out")
            elif not SPECIAL_NAME.fullmatch(name):
                yield Problem(key, f"{name!r} could be a word of the text", NAMING)

    def finished(self, backend: tokenizers.Tokenizer) -> Tokenizer:
        """Return the trained tokenizer with its roles, those of further special tokens included."""
        return Tokenizer(backend, usual_roles(self.roles, self.special_tokens))
