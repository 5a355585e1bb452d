"""BLEU and chrF of a whole corpus, by sacreBLEU (Post, 2018, arXiv:1804.08771)."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class CorpusScore(NamedTuple):
    """A score from 0 to 100 and the signature to quote with it."""

    value: float
    signature: str


def bleu(predictions: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> CorpusScore:
    """Return BLEU of detokenized text, a reference each (Papineni et al., 2002, doi:10.3115/1073083.1073135).

    `tokenize` is sacreBLEU's: 13a is WMT's, zh, ja-mecab and ko-mecab are for those languages.
    """
    from sacrebleu.metrics import BLEU

    return _scored(BLEU(tokenize=tokenize), predictions, references)


def chrf(predictions: Sequence[str], references: Sequence[str], word_order: int = 0) -> CorpusScore:
    """Return chrF, a reference each (Popović, 2015, doi:10.18653/v1/W15-3049); word_order 2 is chrF++."""
    from sacrebleu.metrics import CHRF

    return _scored(CHRF(word_order=word_order), predictions, references)


def _scored(metric: Any, predictions: Sequence[str], references: Sequence[str]) -> CorpusScore:
    score = float(metric.corpus_score(list(predictions), [list(references)]).score)
    return CorpusScore(score, str(metric.get_signature()))
