"""SQuAD's exact match and F1: cases worked out by hand, laws, and the official script to the digit."""

import importlib.util
import json
import os
import random
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.metrics import squad

TEXTS = st.lists(st.sampled_from(["a", "The", "fire!", "fire", "lit", "-", "Ünder", "9.5"]), max_size=6).map(
    " ".join
)
WORDS = TEXTS.filter(squad.normalized)
QUESTIONS = st.lists(
    st.tuples(WORDS | st.just(""), st.lists(WORDS, max_size=3), st.sampled_from([0.0, 0.2, 0.7])), min_size=1
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  U.S.A.", "usa"),
        ("an apple, a day\n", "apple day"),
        ("a-b", "ab"),
        ("theatre “the”", "theatre “ ”"),
        ("Another", "another"),
        ("", ""),
    ],
)
def test_a_text_is_normalized_as_published(text: str, expected: str) -> None:
    """Lower case, no ASCII punctuation, no articles, single blanks: in this order."""
    assert squad.normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "f1"),
    [
        ("the fire", "Fire.", 1, 1),
        ("a big fire", "fire", 0, 2 / 3),
        ("fire fire", "fire", 0, 2 / 3),
        ("one two three four", "three four five", 0, 2 * 0.5 * (2 / 3) / (0.5 + 2 / 3)),
        ("ice", "fire", 0, 0),
        ("", "fire", 0, 0),
        ("the", "", 1, 1),
    ],
)
def test_exact_match_and_f1_are_those_worked_out_by_hand(
    prediction: str, answer: str, exact: float, f1: float
) -> None:
    assert squad.exact_match(prediction, answer) == exact
    assert squad.f1(prediction, answer) == pytest.approx(f1, rel=1e-15)


@settings(deadline=None, max_examples=50)
@given(one=TEXTS, other=TEXTS)
def test_f1_is_symmetric_a_share_and_1_for_the_same_words_alone(one: str, other: str) -> None:
    f1 = squad.f1(one, other)
    assert f1 == pytest.approx(squad.f1(other, one), rel=1e-15)
    assert squad.exact_match(one, other) <= f1 <= 1
    words, others = Counter(squad.normalized(one).split()), Counter(squad.normalized(other).split())
    assert (f1 == 1) == (words == others)
    assert (f1 == 0) == (words != others and not words & others)


def test_version_1_takes_the_best_reference_and_gives_the_unanswered_nothing() -> None:
    answers = {"q1": ["fire", "a big fire"], "q2": ["ice"], "q3": ["rain"], "q4": ["the"]}
    predictions = {"q1": "big fire", "q2": "thin ice", "q4": "a"}
    assert squad.squad_v1(predictions, answers) == {"exact_match": 2 / 4, "f1": (1 + 2 / 3) / 4}


def test_version_2_tells_the_kinds_of_questions_apart() -> None:
    """A reference of no word counts where there is no other; then "" is right, and there is an answer."""
    answers = {"q1": ["fire"], "q2": [], "q3": ["the"], "q4": [], "q5": ["fire", "the"]}
    predictions = {"q1": "big fire", "q2": "", "q3": "", "q4": "ice", "q5": "a"}
    assert squad.squad_v2(predictions, answers) == pytest.approx(
        {
            "exact_match": 2 / 5,
            "f1": (2 / 3 + 2) / 5,
            "has_answer_exact_match": 1 / 3,
            "has_answer_f1": (2 / 3 + 1) / 3,
            "no_answer_exact_match": 1 / 2,
            "no_answer_f1": 1 / 2,
        },
        rel=1e-15,
    )
    assert not [name for name in squad.squad_v2({"q": "x"}, {"q": ["x"]}) if name.startswith("no_answer")]


def test_no_answer_is_given_above_the_threshold() -> None:
    answers = {"q1": ["fire"], "q2": [], "q3": ["rain"]}
    predictions = {"q1": "fire", "q2": "ice", "q3": "rain"}
    no_answer = {"q1": 0.2, "q2": 0.9, "q3": 0.95}
    exact = {
        at: squad.squad_v2(predictions, answers, no_answer, at)["exact_match"] for at in (0.1, 0.2, 0.9, 1.0)
    }
    assert exact == {0.1: 1 / 3, 0.2: 2 / 3, 0.9: 1 / 3, 1.0: 2 / 3}
    metrics = squad.squad_v2(predictions, answers, no_answer)
    assert (metrics["best_f1"], metrics["best_f1_threshold"]) == (2 / 3, 0.2)
    assert squad.best_threshold(predictions, answers, no_answer) == 0.2


@settings(deadline=None, max_examples=50)
@given(questions=QUESTIONS, threshold=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]))
def test_no_threshold_is_better_than_the_best(
    questions: list[tuple[str, list[str], float]], threshold: float
) -> None:
    """The best is reached at its own threshold, where no probability is shared and every text has a word."""
    predictions = {str(at): prediction for at, (prediction, _, _) in enumerate(questions)}
    answers = {str(at): references for at, (_, references, _) in enumerate(questions)}
    no_answer = {str(at): chance + (at + 1) * 1e-6 for at, (_, _, chance) in enumerate(questions)}
    metrics = squad.squad_v2(predictions, answers, no_answer, threshold)
    for name in ("exact_match", "f1"):
        best = metrics[f"best_{name}"]
        assert metrics[name] <= best + 1e-12
        at_best = squad.squad_v2(predictions, answers, no_answer, metrics[f"best_{name}_threshold"])
        assert at_best[name] == pytest.approx(best, abs=1e-12)


def data() -> Path:
    """Return the folder of SQuAD's files."""
    if "LUMBRE_DATA" not in os.environ:
        pytest.skip("LUMBRE_DATA is not set")
    return Path(os.environ["LUMBRE_DATA"]) / "squad"


def official() -> ModuleType:
    """Return the official script of version 2.0."""
    spec = importlib.util.spec_from_file_location("evaluate_squad", data() / "evaluate-v2.0.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def questions_of(file: Path) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Return the articles of a file, and the answers of its questions."""
    articles = json.loads(file.read_bytes())["data"]
    answers = {
        question["id"]: [answer["text"] for answer in question["answers"]]
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    return articles, answers


def part_of(articles: list[dict[str, Any]], kept: set[str]) -> list[dict[str, Any]]:
    """Return the articles with the questions of `kept` alone."""
    return [
        {
            "paragraphs": [
                {"qas": [question for question in paragraph["qas"] if question["id"] in kept]}
                for paragraph in article["paragraphs"]
            ]
        }
        for article in articles
    ]


def perturbed(answers: dict[str, list[str]], chance: random.Random) -> dict[str, str]:
    """Return predictions: answers of the same and of other questions, whole, cut, longer, louder, or none."""
    everything = [text for texts in answers.values() for text in texts]
    out = {}
    for question, texts in answers.items():
        text = chance.choice(texts) if texts and chance.random() < 0.7 else chance.choice(everything)
        words = text.split()
        cut = words[chance.randint(0, len(words)) :]
        ways = [
            text,
            text.upper(),
            f"The {text}.",
            " ".join(cut),
            f"{text} {chance.choice(everything)}",
            "",
            "a",
            "?!",
        ]
        out[question] = chance.choice(ways)
    return out


@pytest.mark.real_data
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_version_2_equals_the_official_script(seed: int) -> None:
    """On 1,000 perturbed predictions: per question to the bit, means to the last digits of a float."""
    script, chance = official(), random.Random(seed)
    articles, every = questions_of(data() / "dev-v2.0.json")
    kept = set(chance.sample(sorted(every), 1000))
    articles, answers = part_of(articles, kept), {one: every[one] for one in every if one in kept}
    predictions = perturbed(answers, chance)
    no_answer = {question: round(chance.random(), 2) for question in predictions}
    has_answer = script.make_qid_to_has_ans(articles)
    raw = script.get_raw_scores(articles, predictions)
    for scores, ours in zip(raw, (squad.exact_match, squad.f1), strict=True):
        assert 100 < sum(score > 0 for score in scores.values()) < 900
        for question, score in scores.items():
            texts = [text for text in answers[question] if squad.normalized(text)] or [""]
            assert score == max(ours(predictions[question], text) for text in texts)
    exact, f1 = (script.apply_no_ans_threshold(one, no_answer, has_answer, 0.6) for one in raw)
    expected = script.make_eval_dict(exact, f1)
    for name, wanted in (("HasAns", True), ("NoAns", False)):
        of_kind = [question for question, has in has_answer.items() if has == wanted]
        script.merge_eval(expected, script.make_eval_dict(exact, f1, of_kind), name)
    script.find_all_best_thresh(expected, predictions, *raw, no_answer, has_answer)
    metrics = squad.squad_v2(predictions, answers, no_answer, 0.6)
    thresholds = {name: metrics.pop(name) for name in list(metrics) if name.endswith("threshold")}
    assert thresholds == {
        "best_exact_match_threshold": expected["best_exact_thresh"],
        "best_f1_threshold": expected["best_f1_thresh"],
    }
    named = {
        name.replace("has_answer", "HasAns")
        .replace("no_answer", "NoAns")
        .replace("exact_match", "exact"): 100 * value
        for name, value in metrics.items()
    }
    assert len(named) == 8
    assert named == pytest.approx({name: expected[name] for name in named}, rel=1e-15)


@pytest.mark.real_data
def test_version_1_equals_the_official_functions() -> None:
    """The functions of version 2.0's script are those of 1.1 on answers and predictions that have a word.

    Where a prediction has none, 1.1 gives F1 0, as 2.0 does for an answer with a word.
    """
    script, chance = official(), random.Random(1)
    articles, every = questions_of(data() / "dev-v1.1.json")
    kept = set(chance.sample(sorted(every), 1000))
    answers = {question: every[question] for question in every if question in kept}
    assert all(squad.normalized(text) for texts in answers.values() for text in texts)
    predictions = perturbed(answers, chance)
    expected = script.make_eval_dict(*script.get_raw_scores(part_of(articles, kept), predictions))
    metrics = squad.squad_v1(predictions, answers)
    assert 100 * metrics["exact_match"] == pytest.approx(expected["exact"], rel=1e-15)
    assert 100 * metrics["f1"] == pytest.approx(expected["f1"], rel=1e-15)


@pytest.mark.real_data
def test_published_predictions_have_their_figures() -> None:
    folder = data()
    _, answers = questions_of(folder / "dev-v1.1.json")
    predictions = json.loads((folder / "predictions" / "bert_ensemble_v1.1.json").read_bytes())
    metrics = squad.squad_v1(predictions, answers)
    assert [round(100 * metrics[name], 2) for name in ("exact_match", "f1")] == [86.21, 92.20]
    _, answers = questions_of(folder / "dev-v2.0.json")
    predictions = json.loads((folder / "predictions" / "bert_single_v2.0.json").read_bytes())
    metrics = squad.squad_v2(predictions, answers)
    assert [round(100 * metrics[name], 2) for name in ("exact_match", "f1")] == [78.74, 81.78]
