"""Each character a token, as in char-rnn (Karpathy, 2015), by the library `tokenizers`."""

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal

import tokenizers
from tokenizers import decoders, models

from .base import Tokenizer
from .normalization import normalizer
from .trained import TrainedConfig


class CharactersConfig(TrainedConfig):
    """The commonest characters of the corpus are the vocabulary; a document ends in `<|endoftext|>`."""

    roles: ClassVar[dict[str, str]] = {
        "bos": "<|endoftext|>",
        "eos": "<|endoftext|>",
        "unk": "<|unk|>",
        "pad": "<|pad|>",
    }
    type: Literal["characters"] = "characters"

    def build(self, texts: Iterable[str]) -> Tokenizer:
        first_step = normalizer(self.normalization)
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text if first_step is None else first_step.normalize_str(text))
        special = self.special_names
        common = sorted(counts, key=lambda character: (-counts[character], character))
        characters = sorted(common[: self.vocab_size - len(special)])
        vocabulary = {name: number for number, name in enumerate([*special, *characters])}
        # BPE without a merge is the library's quickest way to single characters.
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token=self.roles["unk"]))
        if first_step is not None:
            backend.normalizer = first_step
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens(special)
        return self.finished(backend)
