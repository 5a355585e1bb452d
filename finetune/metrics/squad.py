"""Exact match and F1 of answers, to the digit those of SQuAD's own scripts but shares of 1, not of 100.

Version 1.1: Rajpurkar et al., 2016, arXiv:1606.05250; version 2.0: Rajpurkar et al., 2018, arXiv:1806.03822.
Predictions are a text by question id; answers are all reference texts by question id, none where there is no
answer.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

Predictions = Mapping[str, str]
Answers = Mapping[str, Sequence[str]]
Scores = Mapping[str, float]
"""A number by question id."""

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_v1(predictions: Predictions, answers: Answers) -> dict[str, float]:
    """Return exact_match and f1 as version 1.1 has them; a question without a prediction scores 0."""
    exact, overlap = {}, {}
    for question, references in answers.items():
        prediction = predictions.get(question)
        given = [] if prediction is None else references
        exact[question] = max((exact_match(prediction or "", one) for one in given), default=0.0)
        overlap[question] = max((f1(prediction or "", one, both_empty=0.0) for one in given), default=0.0)
    return {"exact_match": _mean(exact, answers), "f1": _mean(overlap, answers)}


def squad_v2(
    predictions: Predictions, answers: Answers, no_answer: Scores | None = None, threshold: float = 1.0
) -> dict[str, float]:
    """Return exact_match and f1 as version 2.0 has them; every question has a prediction, "" for no answer.

    has_answer_* and no_answer_* are the same over the questions of either kind, where there are any. Where
    `no_answer` gives the probability (or any score) that a question has no answer, one above `threshold`
    stands for the prediction "", and best_* and best_*_threshold are the best score and its threshold.
    """
    metrics: dict[str, float] = {}
    for name, score in (("exact_match", exact_match), ("f1", f1)):
        raw = shown = _best(predictions, answers, score)
        if no_answer is not None:
            shown = {
                question: float(not answers[question]) if no_answer[question] > threshold else value
                for question, value in raw.items()
            }
            best, at = _best_threshold(predictions, answers, no_answer, raw)
            metrics |= {f"best_{name}": best, f"best_{name}_threshold": at}
        metrics[name] = _mean(shown, answers)
        for kind, has_answer in (("has_answer", True), ("no_answer", False)):
            questions = [question for question in answers if bool(answers[question]) == has_answer]
            if questions:
                metrics[f"{kind}_{name}"] = _mean(shown, questions)
    return metrics


def best_threshold(predictions: Predictions, answers: Answers, no_answer: Scores) -> float:
    """Return the threshold for `squad_v2` with the best F1: no answer is given above it."""
    return _best_threshold(predictions, answers, no_answer, _best(predictions, answers, f1))[1]


def exact_match(prediction: str, answer: str) -> float:
    """Return 1 where two texts are the same once normalized, else 0."""
    return float(normalized(prediction) == normalized(answer))


def f1(prediction: str, answer: str, both_empty: float = 1.0) -> float:
    """Return the harmonic mean of the precision and recall of words; `both_empty` where neither has one."""
    given, wanted = normalized(prediction).split(), normalized(answer).split()
    if not given and not wanted:
        return both_empty
    same = sum((Counter(given) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def normalized(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and articles, its words one blank apart."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def _best(predictions: Predictions, answers: Answers, score: Callable[[str, str], float]) -> dict[str, float]:
    """Return each question's best score over its references; "" is the only one where none has a word."""
    return {
        question: max(
            score(predictions[question], one)
            for one in [one for one in references if normalized(one)] or [""]
        )
        for question, references in answers.items()
    }


def _mean(scores: Scores, questions: Mapping[str, object] | Sequence[str]) -> float:
    return sum(scores[question] for question in questions) / len(questions)


def _best_threshold(
    predictions: Predictions, answers: Answers, no_answer: Scores, scores: Scores
) -> tuple[float, float]:
    """Return the best mean score and its threshold.

    As in the official script, thresholds are tried after each question in order of its probability, those of
    the same probability in the order of `no_answer`, so that ties can show a score between two thresholds.
    """
    total: float = sum(not references for references in answers.values())
    best, threshold = total, 0.0
    for question in sorted(no_answer, key=lambda one: no_answer[one]):
        if question not in answers:
            continue
        total += scores[question] if answers[question] else -bool(predictions[question])
        if total > best:
            best, threshold = total, no_answer[question]
    return best / len(answers), threshold
