"""A question with its context as rows, and which characters of the context their tokens stand for.

Shapes: T time, C tokens of the context.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .base import ExampleError
from .strides import windows

UNKNOWN = -100
"""The position of an answer that is not known: it counts for nothing in a loss."""
CHARACTERS = ("char_starts", "char_ends")
CONTEXTS = 256
"""How many contexts stay encoded: questions on one follow each other."""


@dataclass(frozen=True)
class Context:
    """A context's tokens."""

    encoding: Any
    """As the package tokenizers has them, without what opens and closes a sequence."""
    start_C: np.ndarray
    """The character that each begins at."""
    end_C: np.ndarray


@dataclass(frozen=True)
class QuestionRows:
    """A question with a part of its context in each row."""

    rows: list[dict[str, np.ndarray]]
    """input_ids, token_type_ids, and of the context's tokens char_starts and char_ends, -1 for others [T]."""
    spans: list[range]
    """Which of the context's tokens each row has."""
    first: int
    """Where in a row they begin."""
    context: Context

    def tokens(self, start: int, end: int) -> range:
        """Return the context's tokens that characters are of."""
        first = np.searchsorted(self.context.end_C, start, side="right")
        last = np.searchsorted(self.context.start_C, end, side="left")
        return range(int(first), int(last))

    def positions(self, answer: range | None) -> list[tuple[int, int]]:
        """Return the first and the last position of an answer in each row.

        0 where there is none or it is not whole in the row, and UNKNOWN for an empty one.
        """
        return [self._within(answer, span) for span in self.spans]

    def _within(self, answer: range | None, span: range) -> tuple[int, int]:
        if answer is not None and not answer:
            return UNKNOWN, UNKNOWN
        if answer is None or answer.start < span.start or answer.stop > span.stop:
            return 0, 0
        before = self.first - span.start
        return before + answer.start, before + answer.stop - 1


class QuestionReader:
    """Encodes a context once for all of the questions on it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._context = lru_cache(CONTEXTS)(self._encoded)

    def rows(self, question: str, context: str, limit: int, stride: int) -> QuestionRows:
        """Return rows of at most `limit` tokens; raises ExampleError where a question leaves no room."""
        part = self._context(context)
        length = len(part.start_C)
        if not (part.end_C > part.start_C).any():
            raise ExampleError("the context has no token")
        both = self._backend.post_process(self._tokens(question), part.encoding)
        first, total = both.sequence_ids.index(1), len(both.ids)
        whole_4T = np.full((4, total), -1, dtype=np.int64)
        whole_4T[:2] = both.ids, both.type_ids
        whole_4T[2:, first : first + length] = part.start_C, part.end_C
        names = ("input_ids", "token_type_ids", *CHARACTERS)
        spans = windows(length, limit, total - length, stride)
        rows = []
        for span in spans:
            kept = np.r_[:first, first + span.start : first + span.stop, first + length : total]
            rows.append(dict(zip(names, whole_4T[:, kept], strict=True)))
        return QuestionRows(rows, spans, first, part)

    def _encoded(self, text: str) -> Context:
        encoding = self._tokens(text)
        offsets_C2 = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return Context(encoding, offsets_C2[:, 0], offsets_C2[:, 1])

    def _tokens(self, text: str) -> Any:
        # A tokenizer.json may have a truncation of its own, and transformers sets another with each call.
        self._backend.no_truncation()
        self._backend.no_padding()
        return self._backend.encode(text, add_special_tokens=False)


def located(text: str, context: str, start: int) -> int | None:
    """Return where the text stands that is the nearest to `start`; None where there is none."""
    start = max(0, start)
    before = context.rfind(text, 0, start + len(text))
    after = context.find(text, start)
    found = [at for at in (before, after) if at >= 0]
    return min(found, key=lambda at: abs(at - start)) if text and found else None
