"""Masked language modelling (Devlin et al., 2019, arXiv:1810.04805, 3.1), masks drawn anew each epoch."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import TokenizerError
from lumbre.models import NO_TARGET
from lumbre.tokenizer import Tokenizer

from .base import ModelKind, Objective, ObjectiveConfig, Row


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

    def build(self, tokenizer: Tokenizer, seed: int) -> "Mlm":
        """Return the objective; raises TokenizerError when there is no mask token."""
        if tokenizer.mask_id is None:
            raise TokenizerError(
                "objective mlm: the tokenizer has no mask token; use tokenizer.type=wordpiece"
            )
        return Mlm(self, tokenizer, seed)


class Mlm(Objective):
    """80/10/10 masking; each token is chosen on its own."""

    def __init__(self, config: MlmConfig, tokenizer: Tokenizer, seed: int) -> None:
        assert tokenizer.mask_id is not None
        self._config = config
        self._seed = seed
        self._mask_id = tokenizer.mask_id
        self._special_ids = np.array(sorted(tokenizer.special_ids))
        self._ordinary_ids = np.setdiff1d(np.arange(tokenizer.vocab_size), self._special_ids)
        self.targets_per_token = config.mask_probability

    def apply(self, row: Row, sample: int, stream: Stream = Stream.NOISE) -> Row:
        """Mask the row; `labels` hold what stood there."""
        config = self._config
        tokens_T = row["input_ids"]
        chance = distributed.random(self._seed, stream, sample)
        chosen_T, fate_T = chance.random((2, len(tokens_T)))
        other_T = chance.choice(self._ordinary_ids, len(tokens_T))
        special_T = (row["document_ids"] == 0) | np.isin(tokens_T, self._special_ids)
        target_T = (chosen_T < config.mask_probability) & ~special_T
        mask_T = target_T & (fate_T < config.replace_with_mask)
        random_T = target_T & ~mask_T & (fate_T < config.replace_with_mask + config.replace_with_random)
        return {
            **row,
            "input_ids": np.where(mask_T, self._mask_id, np.where(random_T, other_T, tokens_T)),
            "labels": np.where(target_T, tokens_T, NO_TARGET),
        }
