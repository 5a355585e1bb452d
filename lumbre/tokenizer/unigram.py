"""Unigram (Kudo, 2018, arXiv:1804.10959) as in T5, trained by SentencePiece, encoded by `tokenizers`.

The trainer of `tokenizers` adds up in the order of randomly seeded hash maps, so that its vocabulary is
another one in each process; SentencePiece's depends on the texts and on its number of threads alone.
"""

import io
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal

import tokenizers
from pydantic import Field
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from lumbre.errors import TokenizerError

from .base import Tokenizer
from .normalization import Step, normalizer
from .pieces import split_text
from .trained import TrainedConfig

THREADS = 16
"""SentencePiece sums by thread, so that another number rounds otherwise; they need not be as many cores."""
RESERVED = str.maketrans({"\0": " ", "\u2585": " "})
"""Characters that SentencePiece marks ends and unknowns with; it would leave out texts that hold them."""


class UnigramConfig(TrainedConfig):
    """Unigram as T5 has it: the likeliest pieces of words that begin with `▁`, then `</s>`."""

    roles: ClassVar[dict[str, str]] = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    type: Literal["unigram"] = "unigram"
    normalization: tuple[Step, ...] = ("nmt", "nfkc", "collapse_spaces")
    """What is done to text first, in order; by default about what SentencePiece calls nmt_nfkc."""
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.9995
    """Share of the text's characters that are in the vocabulary; others become `<unk>`."""

    def build(self, texts: Iterable[str]) -> Tokenizer:
        backend = tokenizers.Tokenizer(models.Unigram())
        if (first_step := normalizer(self.normalization)) is not None:
            backend.normalizer = first_step
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
        special = self.special_names
        pieces = self._train(_sentences(texts, first_step), self.vocab_size - len(special) + 1)
        words = [(piece, score) for piece, score in pieces if piece not in special]
        unk_id = special.index(self.roles["unk"])
        backend.model = models.Unigram([*((name, 0.0) for name in special), *words], unk_id=unk_id)
        backend.add_special_tokens(special)
        tokenizer = self.finished(backend)
        _frame(tokenizer)
        return tokenizer

    def _train(self, sentences: Iterator[str], vocab_size: int) -> list[tuple[str, float]]:
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=sentences,
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                character_coverage=self.character_coverage,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=1 << 30,
                num_threads=THREADS,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                minloglevel=3,
            )
        except RuntimeError as error:
            remedy = "give it more text, a larger vocab_size, or a lower character_coverage"
            raise TokenizerError(f"tokenizer: Unigram cannot be trained: {error}; {remedy}") from error
        trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        numbers = range(1, trained.get_piece_size())
        # Few digits are read back from JSON as they are.
        return [(trained.id_to_piece(number), round(trained.get_score(number), 6)) for number in numbers]


def _sentences(texts: Iterable[str], first_step: normalizers.Normalizer | None) -> Iterator[str]:
    """Yield the texts as the model will see them, in pieces, without the space that it puts before each."""
    for text in texts:
        for piece in split_text(text):
            normal = piece if first_step is None else first_step.normalize_str(piece)
            if sentence := normal.translate(RESERVED).removeprefix(" "):
                yield sentence


def _frame(tokenizer: Tokenizer) -> None:
    """Let plain transformers put the tokens around a text, and a pair, that stand around a document."""
    begin, end = (
        "".join(f"{tokenizer.backend.id_to_token(number)} " for number in numbers)
        for numbers in (tokenizer.document_begin, tokenizer.document_end)
    )
    names = f"{begin}{end}".split()
    tokenizer.backend.post_processor = processors.TemplateProcessing(
        single=f"{begin}$A {end}".strip(),
        pair=f"{begin}$A {end}$B:1 {end}".strip(),
        special_tokens=[(name, tokenizer.backend.token_to_id(name)) for name in dict.fromkeys(names)],
    )
