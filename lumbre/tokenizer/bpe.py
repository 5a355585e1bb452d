"""Byte-level BPE as in GPT-2 (Radford et al., 2019), by the library `tokenizers`."""

from collections.abc import Iterable
from typing import ClassVar, Literal

import tokenizers
from pydantic import PositiveInt
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from .base import Tokenizer
from .normalization import normalizer
from .trained import TrainedConfig


class BpeConfig(TrainedConfig):
    """Byte-level BPE as GPT-2 has it: every text has ids, a document ends in `<|endoftext|>`."""

    roles: ClassVar[dict[str, str]] = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|pad|>"}
    type: Literal["bpe"] = "bpe"
    min_frequency: PositiveInt = 2
    """How often a pair of tokens must occur to become a token."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        backend = byte_level(models.BPE())
        backend.normalizer = normalizer(self.normalization)
        backend.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=self.vocab_size,
                min_frequency=self.min_frequency,
                special_tokens=self.special_names,
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            ),
        )
        return self.finished(backend)


def byte_level(model: models.BPE, *, add_prefix_space: bool = False) -> tokenizers.Tokenizer:
    """Return a tokenizer of GPT-2's parts."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend
