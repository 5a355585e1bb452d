"""ROUGE: overlap of n-grams and longest common subsequences (Lin, 2004, aclanthology.org/W04-1013)."""

from collections.abc import Sequence

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return rouge1, rouge2, rougeL and rougeLsum: F1 from 0 to 1, the mean over examples.

    By the package rouge-score with Porter's stemmer, as run_summarization does; its words are made of a-z and
    0-9 alone. For rougeLsum each text is cut into sentences by `sentences`.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(KINDS, use_stemmer=True)
    sums = dict.fromkeys(KINDS, 0.0)
    for prediction, reference in zip(predictions, references, strict=True):
        scores = scorer.score("\n".join(sentences(reference)), "\n".join(sentences(prediction)))
        for kind in KINDS:
            sums[kind] += scores[kind].fmeasure
    return {kind: total / len(references) for kind, total in sums.items()}


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, by lines and by Punkt (Kiss & Strunk, 2006).

    run_summarization has nltk's model of English, a download; this is the same algorithm untrained, which
    knows no abbreviations, so that "Dr. Who" is cut in two.
    """
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    punkt = PunktSentenceTokenizer()
    return [sentence for line in text.splitlines() for sentence in punkt.tokenize(line)]
