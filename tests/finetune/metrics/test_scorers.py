"""Metrics equal those of the packages that papers quote, called directly; what is undefined is 0."""

import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from scipy import stats
from seqeval.metrics import classification_report
from sklearn import metrics as sklearn_metrics

from finetune.metrics import classification, rouge, sequence_labels, translation
from lumbre.distributed import random as random_numbers

LABELS = np.array([0, 1, 1, 0, 1, 0, 1, 1])
GUESSES = np.array([0, 1, 0, 0, 1, 1, 1, 1])


def test_two_labels_have_the_f1_of_the_positive_one_and_more_the_macro_average() -> None:
    two = classification.single_label(GUESSES, LABELS)
    assert two == {
        "accuracy": sklearn_metrics.accuracy_score(LABELS, GUESSES),
        "f1": sklearn_metrics.f1_score(LABELS, GUESSES),
        "f1_macro": sklearn_metrics.f1_score(LABELS, GUESSES, average="macro"),
        "matthews": sklearn_metrics.matthews_corrcoef(LABELS, GUESSES),
    }
    assert two["f1"] == pytest.approx(2 * (4 / 5) * (4 / 5) / (8 / 5))
    three = classification.single_label(GUESSES, LABELS, labels=3)
    assert three == {**two, "f1": two["f1_macro"]} != two
    assert classification.single_label(GUESSES + 1, LABELS + 1) == three


def test_several_labels_at_once_have_micro_and_macro_f1_and_exact_match() -> None:
    target_NL = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    predicted_NL = np.array([[1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]])
    assert classification.multi_label(predicted_NL, target_NL) == {
        "f1": sklearn_metrics.f1_score(target_NL, predicted_NL, average="micro"),
        "f1_macro": sklearn_metrics.f1_score(target_NL, predicted_NL, average="macro"),
        "exact_match": 2 / 4,
    }


def test_numbers_have_the_correlations_of_scipy() -> None:
    target_N = np.array([1.0, 2.0, 2.0, 5.0, 3.5])
    predicted_N = np.array([0.5, 2.5, 1.0, 9.0, 9.0])
    assert classification.regression(predicted_N, target_N) == {
        "pearson": stats.pearsonr(predicted_N, target_N).statistic,
        "spearman": stats.spearmanr(predicted_N, target_N).statistic,
        "mse": sklearn_metrics.mean_squared_error(target_N, predicted_N),
        "negative_mse": -sklearn_metrics.mean_squared_error(target_N, predicted_N),
    }


@settings(deadline=None, max_examples=30)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6),
    scale=st.sampled_from([1.0, 1e-20, 1e20]),
)
def test_no_metric_is_ever_nan(pairs: list[tuple[int, int]], scale: float) -> None:
    predicted_N, target_N = np.array(pairs).T
    found = [
        classification.single_label(predicted_N, target_N),
        classification.multi_label(np.eye(3)[predicted_N], np.eye(3)[target_N]),
        classification.regression(predicted_N * scale, target_N.astype(float)),
    ]
    assert all(math.isfinite(value) for metrics in found for value in metrics.values())


@pytest.mark.parametrize("constant", [0, 1])
def test_a_constant_correlates_with_nothing(constant: int) -> None:
    same_N = np.full(len(LABELS), constant)
    assert classification.single_label(same_N, LABELS)["matthews"] == 0
    assert classification.single_label(same_N, same_N)["matthews"] == 0
    found = classification.regression(same_N * 1.0, LABELS * 1.0)
    assert (found["pearson"], found["spearman"]) == (0, 0)


def tags(seed: int, sentences: int = 40) -> list[list[str]]:
    """Return random tags, of which some I- follow nothing of their type."""
    kinds = np.array(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    return [list(kinds[random_numbers(seed, 0, at).integers(0, 6, 1 + at % 9)]) for at in range(sentences)]


def test_entities_are_counted_as_seqeval_counts_them() -> None:
    target, predicted = tags(1), tags(2)
    report = classification_report(target, predicted, output_dict=True)["micro avg"]
    found = sequence_labels.entities(predicted, target)
    assert (found["precision"], found["recall"], found["f1"]) == (
        report["precision"],
        report["recall"],
        report["f1-score"],
    )
    flat = [
        one == other for pair in zip(target, predicted, strict=True) for one, other in zip(*pair, strict=True)
    ]
    assert found["accuracy"] == pytest.approx(sum(flat) / len(flat), rel=1e-15)


def test_an_entity_is_right_where_its_type_and_its_ends_are() -> None:
    target = [["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER", "I-LOC"]]
    assert sequence_labels.entities(predicted, target) == {
        "f1": pytest.approx(2 / 3),
        "precision": 2 / 3,
        "recall": 2 / 3,
        "accuracy": 3 / 5,
    }
    none = sequence_labels.entities([["O", "NN"]], [["O", "O"]])
    assert none == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 0.5}


SUMMARIES = [
    "The fires burned. Nobody saw them!",
    "",
    "Zwölf Feuer",
    "one\ntwo three",
    "Fires burned while nobody saw",
]
REFERENCES = [
    "Nobody saw. The fire burnt.",
    "A fire.",
    "zwölf feuer brannten",
    "three two. one",
    "Nobody saw. Fires burned.",
]


def test_rouge_is_the_mean_of_the_packages_own() -> None:
    """Sentences of rougeLsum are cut here by hand."""
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    cut = ["The fires burned.\nNobody saw them!", *SUMMARIES[1:]]
    references = [text.replace(". ", ".\n") for text in REFERENCES]
    scores = [scorer.score(reference, text) for reference, text in zip(references, cut, strict=True)]
    found = rouge.rouge(SUMMARIES, REFERENCES)
    for kind, value in found.items():
        assert value == pytest.approx(np.mean([one[kind].fmeasure for one in scores]), rel=1e-12)
    assert found["rouge1"] > found["rougeL"] > found["rouge2"]
    assert found["rougeLsum"] > found["rougeL"]


def test_a_summary_is_as_good_as_itself_whatever_its_sentences() -> None:
    texts = [text for text in SUMMARIES if text]
    assert rouge.rouge(texts, texts) == pytest.approx({"rouge1": 1, "rouge2": 1, "rougeL": 1, "rougeLsum": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("It cost 3.50 in all. J. Smith paid.", ["It cost 3.50 in all.", "J. Smith paid."]),
        ("a line\nanother. And more", ["a line", "another.", "And more"]),
        (" \n", []),
    ],
)
def test_sentences_are_cut_without_a_download(text: str, expected: list[str]) -> None:
    assert rouge.sentences(text) == expected


HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him, hard."]
TRANSLATIONS = ["The dog bit the man!", "It was not unexpected.", "The man bit him first, hard."]


def test_bleu_and_chrf_are_sacrebleus_with_their_signatures() -> None:
    bleu = translation.bleu(HYPOTHESES, TRANSLATIONS)
    assert bleu.value == sacrebleu.corpus_bleu(HYPOTHESES, [TRANSLATIONS]).score
    assert 5 < bleu.value < 95
    version = sacrebleu.__version__
    assert bleu.signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    words = translation.bleu(HYPOTHESES, TRANSLATIONS, tokenize="none")
    assert (
        words.value == sacrebleu.corpus_bleu(HYPOTHESES, [TRANSLATIONS], tokenize="none").score != bleu.value
    )
    assert "tok:none" in words.signature
    chrf = translation.chrf(HYPOTHESES, TRANSLATIONS)
    assert chrf.value == sacrebleu.corpus_chrf(HYPOTHESES, [TRANSLATIONS]).score
    assert chrf.signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    plus = translation.chrf(HYPOTHESES, TRANSLATIONS, word_order=2)
    assert plus.value == sacrebleu.corpus_chrf(HYPOTHESES, [TRANSLATIONS], word_order=2).score != chrf.value
