"""Answer spans from start and end logits, as transformers' run_qa has them (postprocess_qa_predictions).

Shapes: T time, N the likeliest positions of a row, S spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax


@dataclass(frozen=True)
class SpanLogits:
    """What the model makes of a row: a question with a part of its context."""

    start_T: np.ndarray
    end_T: np.ndarray
    char_start_T: np.ndarray
    """Where each token begins in the context, as a character; -1 where it is no token of the context."""
    char_end_T: np.ndarray


@dataclass(frozen=True)
class Spans:
    """The best answers to a question, and the score of there being none."""

    score_S: np.ndarray
    """The sum of a start and an end logit, the greatest first."""
    char_start_S: np.ndarray
    char_end_S: np.ndarray
    null: float
    """The same of the first position, the least over the rows."""

    @property
    def no_answer(self) -> float:
        """The probability that there is no answer, of that and the best span alone."""
        return float(expit(self.null - self.score_S[0]))

    def probabilities(self, *, with_null: bool) -> np.ndarray:
        """Return the probability of each span, and last that of no answer where it counts.

        As in run_qa, no answer is one of the n best where it is so likely, and one more where it is not.
        """
        scores = np.append(self.score_S, self.null) if with_null else self.score_S
        return np.asarray(softmax(scores))


def best_spans(
    rows: Sequence[SpanLogits], n_best_size: int, max_answer_length: int, *, with_null: bool
) -> Spans:
    """Return the best spans over the rows of a question, of at most so many tokens, each of some text.

    Starts and ends are sought among a row's likeliest positions; where no two of them make a span, as when
    the model looks at the question alone, the answer is the likeliest token of the context.
    """
    parts = [_of_row(row, n_best_size, max_answer_length) for row in rows]
    if not any(part.shape[1] for part in parts):
        parts = [_tokens(row) for row in rows]
    found = np.concatenate(parts, axis=1)
    score_S, start_S, end_S = found[:, np.argsort(-found[0], kind="stable")[:n_best_size]]
    null = min(float(row.start_T[0]) + float(row.end_T[0]) for row in rows)
    if with_null and len(score_S) == n_best_size > 1 and null > score_S[-1]:
        score_S, start_S, end_S = score_S[:-1], start_S[:-1], end_S[:-1]
    return Spans(score_S, start_S.astype(np.int64), end_S.astype(np.int64), null)


def _of_row(row: SpanLogits, n_best_size: int, max_answer_length: int) -> np.ndarray:
    """Return score, first and last character [3, S] of a row's spans."""
    start_N = np.argsort(row.start_T)[::-1][:n_best_size]
    end_N = np.argsort(row.end_T)[::-1][:n_best_size]
    length_NN = end_N - start_N[:, None] + 1
    right_NN = (length_NN >= 1) & (length_NN <= max_answer_length)
    right_NN &= (row.char_start_T[start_N][:, None] >= 0) & (row.char_start_T[end_N] >= 0)
    right_NN &= row.char_end_T[end_N] > row.char_start_T[start_N][:, None]
    start_at_S, end_at_S = np.nonzero(right_NN)
    return _scored(row, start_N[start_at_S], end_N[end_at_S])


def _tokens(row: SpanLogits) -> np.ndarray:
    at_S = np.flatnonzero((row.char_start_T >= 0) & (row.char_end_T > row.char_start_T))
    return _scored(row, at_S, at_S)


def _scored(row: SpanLogits, start_S: np.ndarray, end_S: np.ndarray) -> np.ndarray:
    score_S = row.start_T[start_S].astype(np.float64) + row.end_T[end_S]
    return np.stack([score_S, row.char_start_T[start_S], row.char_end_T[end_S]])
