"""WordPiece as in BERT (Devlin et al., 2019, arXiv:1810.04805), by the library `tokenizers`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import tokenizers
from pydantic import PositiveInt
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from .base import USUAL_NAMES, Tokenizer
from .normalization import normalizer
from .trained import TrainedConfig

ALPHABET_LIMIT = 1000
CONTINUATION = "##"


class WordPieceConfig(TrainedConfig):
    """WordPiece as BERT has it: `[CLS] text [SEP]`, words cut into pieces, `##` before all but the first."""

    roles: ClassVar[dict[str, str]] = {
        role: USUAL_NAMES[role][0] for role in ("pad", "unk", "cls", "sep", "mask")
    }
    type: Literal["wordpiece"] = "wordpiece"
    lowercase: bool = False
    """Whether text is lowercased and its accents are dropped, after `normalization`."""
    min_frequency: PositiveInt = 2
    """How often a pair of tokens must occur to become a token."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        first_step = normalizer(self.normalization, normalizers.BertNormalizer(lowercase=self.lowercase))
        assert first_step is not None
        backend = bert(models.WordPiece({}, unk_token=self.roles["unk"]), first_step)
        sample = list(texts)
        # The library's own trainer meets the letters in the order of a randomly seeded hash map; given
        # them, and their `##` twins, as special tokens it numbers them in this order.
        letters = _letters(sample, first_step, min(ALPHABET_LIMIT, self.vocab_size // 4))
        special = self.special_names
        first = [*special, *letters, *(CONTINUATION + letter for letter in letters)]
        backend.train_from_iterator(
            sample,
            trainers.WordPieceTrainer(
                vocab_size=self.vocab_size,
                min_frequency=self.min_frequency,
                special_tokens=first,
                initial_alphabet=letters,
                limit_alphabet=len(letters),
                continuing_subword_prefix=CONTINUATION,
                show_progress=False,
            ),
        )
        vocabulary = backend.get_vocab(with_added_tokens=True)
        trained = bert(models.WordPiece(vocabulary, unk_token=self.roles["unk"]), first_step)
        trained.add_special_tokens(special)
        frame(trained, self.roles["cls"], self.roles["sep"])
        return self.finished(trained)


def bert(model: models.WordPiece, first_step: normalizers.Normalizer) -> tokenizers.Tokenizer:
    """Return a tokenizer of BERT's parts."""
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = first_step
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return backend


def frame(backend: tokenizers.Tokenizer, cls: str, sep: str) -> None:
    """Put one text, and a pair of them, between BERT's special tokens."""
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in (cls, sep)],
    )


def _letters(texts: Sequence[str], first_step: normalizers.Normalizer, limit: int) -> list[str]:
    """Return the commonest characters of the normalized texts, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(first_step.normalize_str(text))
    common = sorted((letter for letter in counts if not letter.isspace()), key=lambda c: (-counts[c], c))
    return sorted(common[:limit])
