"""Answer spans: those of transformers' run_qa, by its published algorithm written out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tasks.spans import SpanLogits, best_spans

Answer = dict[str, Any]


def run_qa(rows: list[SpanLogits], n_best: int, longest: int, negatives: bool) -> tuple[list[Answer], float]:
    """Return a question's n best answers with their probabilities, and the score of no answer."""
    found: list[Answer] = []
    null: Answer = {}
    for row in rows:
        score = float(row.start_T[0]) + float(row.end_T[0])
        if not null or null["score"] > score:
            null = {"chars": (0, 0), "score": score}
        starts = sorted(range(len(row.start_T)), key=lambda at: -row.start_T[at])[:n_best]
        ends = sorted(range(len(row.end_T)), key=lambda at: -row.end_T[at])[:n_best]
        for start in starts:
            for end in ends:
                if row.char_start_T[start] < 0 or row.char_start_T[end] < 0:
                    continue
                if end < start or end - start + 1 > longest:
                    continue
                chars = (int(row.char_start_T[start]), int(row.char_end_T[end]))
                found.append({"chars": chars, "score": float(row.start_T[start]) + float(row.end_T[end])})
    if negatives:
        found.append(null)
    found = sorted(found, key=lambda one: one["score"], reverse=True)[:n_best]
    if negatives and not any(one["chars"] == (0, 0) for one in found):
        found.append(null)
    chances = np.exp([one["score"] for one in found])
    for one, chance in zip(found, chances / chances.sum(), strict=True):
        one["probability"] = chance
    return found, null["score"]


@st.composite
def questions(draw: st.DrawFn) -> list[SpanLogits]:
    """Draw rows of logits; neighbours share tokens, with different logits in each."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    question, length, start, rows = draw(st.integers(1, 6)), draw(st.integers(2, 30)), 0, []
    for _ in range(draw(st.integers(1, 4))):
        outside, last = np.full(question + 2, -1), np.array([-1])
        first_C = 3 * np.arange(start, start + length)
        logits = chance.normal(size=(2, length + question + 3)).astype(np.float32) * draw(
            st.sampled_from([0.5, 3.0])
        )
        rows.append(
            SpanLogits(
                logits[0],
                logits[1],
                np.concatenate([outside, first_C, last]),
                np.concatenate([outside, first_C + 2, last]),
            )
        )
        start += length // 2
    return rows


@settings(max_examples=150, deadline=None)
@given(questions(), st.sampled_from([2, 5, 20]), st.sampled_from([1, 4, 30]), st.booleans())
def test_spans_and_probabilities_are_those_of_run_qa(
    rows: list[SpanLogits], n_best: int, longest: int, negatives: bool
) -> None:
    wanted, null = run_qa(rows, n_best, longest, negatives)
    spans = best_spans(rows, n_best, longest, with_null=negatives)
    answers = [one for one in wanted if one["chars"] != (0, 0)]
    if not answers:
        # run_qa says "empty" here.
        assert len(spans.score_S) >= 1
        return
    chars = list(zip(spans.char_start_S.tolist(), spans.char_end_S.tolist(), strict=True))
    assert chars == [one["chars"] for one in answers]
    assert spans.score_S.tolist() == pytest.approx([one["score"] for one in answers])
    assert spans.null == pytest.approx(null)
    chances = spans.probabilities(with_null=negatives)
    assert chances[: len(answers)] == pytest.approx([one["probability"] for one in answers])
    if negatives:
        (none,) = [one for one in wanted if one["chars"] == (0, 0)]
        assert chances[-1] == pytest.approx(none["probability"])
    # Its null_score_diff_threshold, on another scale.
    assert np.log(spans.no_answer / (1 - spans.no_answer)) == pytest.approx(
        null - answers[0]["score"], rel=1e-6, abs=1e-6
    )


def test_a_model_that_looks_at_the_question_alone_answers_with_the_likeliest_token() -> None:
    logits_T = np.array([9, 8, 7, -3, -1, -2, 6], dtype=np.float32)
    chars_T = np.array([-1, -1, -1, 0, 4, 9, -1])
    row = SpanLogits(logits_T, logits_T, chars_T, chars_T + 3)
    spans = best_spans([row], 3, 30, with_null=False)
    assert (spans.char_start_S[0], spans.char_end_S[0], spans.score_S[0]) == (4, 7, -2)


def test_a_span_has_some_text() -> None:
    """A unigram vocabulary has tokens for the blank alone, of no character."""
    start_T = np.array([0, 9, 1], dtype=np.float32)
    row = SpanLogits(start_T, start_T, np.array([-1, 5, 6]), np.array([-1, 5, 8]))
    spans = best_spans([row], 20, 30, with_null=False)
    assert (spans.char_start_S[0], spans.char_end_S[0]) == (5, 8)
    assert (spans.char_end_S > spans.char_start_S).all()


def test_an_answer_does_not_end_before_it_begins() -> None:
    """The first two tokens of a unigram vocabulary may both begin with the first character."""
    start_T, end_T = np.array([[0, 1, 9, 1], [0, 9, 1, 1]], dtype=np.float32)
    row = SpanLogits(start_T, end_T, np.array([-1, 0, 0, 3]), np.array([-1, 1, 2, 5]))
    spans = best_spans([row], 20, 30, with_null=False)
    assert spans.score_S.max() == 10
