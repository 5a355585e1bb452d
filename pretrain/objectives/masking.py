"""Which tokens a masked language model is to predict: each on its own, whole words, or spans of words.

Whole words are those of BERT's later code (google-research/bert, May 2019): a word's pieces are chosen
together. Spans are SpanBERT's (Joshi et al., 2020, arXiv:1907.10529, 3.1): of whole words, their lengths
geometric and cut off. Its code draws spans until a budget of tokens is used up, and ends the last one there;
here words are kept and spans begin by chance, so that every word has the same probability.

Shapes: T tokens of a row, W words of it, V vocabulary.
"""

import string
from typing import NamedTuple

import numpy as np
from tokenizers import models

from lumbre.tokenizer import Tokenizer

BYTE_SPACES = tuple(chr(256 + ord(space)) for space in string.whitespace)
"""White space as byte-level tokenizers write it: `Ġ`, `Ċ` and the like."""
METASPACE = "▁"


class Chosen(NamedTuple):
    """What is predicted."""

    target_T: np.ndarray
    """Whether each token is."""
    leader_T: np.ndarray
    """The place of the token whose fate each target shares, its own or that of its span's first."""


class Words(NamedTuple):
    """The words of a row, in order."""

    start_W: np.ndarray
    """The place of each one's first token."""
    stop_W: np.ndarray
    """The place after its last."""
    first_W: np.ndarray
    """Whether it is the first of its document, or the first after a special token."""


def word_starts(tokenizer: Tokenizer) -> np.ndarray | None:
    """Return for each id whether a word begins with it; None where the tokenizer does not mark words.

    WordPiece marks what goes on, other tokenizers the white space before a word.
    """
    names = tokenizer.backend.get_vocab(with_added_tokens=True)
    model = tokenizer.backend.model
    if isinstance(model, models.WordPiece):
        begins = {name for name in names if not name.startswith(model.continuing_subword_prefix)}
    else:
        spaces = next(
            (
                marks
                for marks in (BYTE_SPACES, (METASPACE,))
                if any(one.startswith(marks[0]) for one in names)
            ),
            None,
        )
        if spaces is None:
            return None
        begins = {name for name in names if name.startswith(spaces)}
    starts_V = np.zeros(tokenizer.vocab_size, dtype=bool)
    starts_V[[names[name] for name in begins]] = True
    return starts_V


def words(
    tokens_T: np.ndarray, document_ids_T: np.ndarray, ordinary_T: np.ndarray, starts_V: np.ndarray
) -> Words:
    """Return the words of a row's ordinary tokens; none goes over a document's bounds or a special token."""
    before_T = np.append(False, ordinary_T[:-1] & (document_ids_T[:-1] == document_ids_T[1:]))
    start_T = ordinary_T & (starts_V[tokens_T] | ~before_T)
    start_W = np.flatnonzero(start_T)
    # A word stops where the next one starts, or where its run of ordinary tokens does.
    stops_T = np.append(np.flatnonzero(start_T | ~ordinary_T), len(tokens_T))
    stop_W = stops_T[np.searchsorted(stops_T, start_W, side="right")]
    return Words(start_W, stop_W, ~before_T[start_W])


class SpanLaw:
    """Lengths of spans in words, and how often one begins so that a share of all words is in one."""

    def __init__(self, share: float, decay: float, longest: int) -> None:
        weights = (1 - decay) ** np.arange(longest)
        lengths = weights / weights.sum()
        at_least = lengths[::-1].cumsum()[::-1]
        mean = at_least.sum()
        self.share = share
        self.begins = share / (share + mean * (1 - share))
        """Probability that a span begins at a word that the one before it leaves free."""
        self._lengths = lengths.cumsum()
        self._rests = (at_least / mean).cumsum()

    def spans(self, first_W: np.ndarray, chance_W: np.ndarray, length_W: np.ndarray) -> list[tuple[int, int]]:
        """Return the first word of each span and the one after its last, from two uniform draws a word.

        At the first word of a document a span may be under way, what is left of it being longer than r with
        the share of all words that are followed by r more of their span: as if there were text before.
        """
        begin_W = chance_W < np.where(first_W, self.share, self.begins)
        laws = [np.searchsorted(law[:-1], length_W, side="right") + 1 for law in (self._rests, self._lengths)]
        long_W = np.where(first_W, *laws)
        bounds = np.append(np.flatnonzero(first_W), len(first_W))
        end_W = bounds[np.searchsorted(bounds, np.arange(len(first_W)), side="right")]
        spans, free = [], 0
        for word in np.flatnonzero(begin_W).tolist():
            if word >= free:
                free = min(word + int(long_W[word]), int(end_W[word]))
                spans.append((word, free))
        return spans


def whole_words(found: Words, chance_T: np.ndarray, share: float) -> Chosen:
    """Choose words, each on its own; BERT's code gives each of their tokens a fate of its own."""
    chosen_W = chance_T[found.start_W] < share
    target_T = _covered(found.start_W[chosen_W], found.stop_W[chosen_W], len(chance_T))
    return Chosen(target_T, np.arange(len(chance_T)))


def word_spans(found: Words, chance_T: np.ndarray, length_T: np.ndarray, law: SpanLaw) -> Chosen:
    """Choose spans of words; all tokens of a span share one fate."""
    spans = law.spans(found.first_W, chance_T[found.start_W], length_T[found.start_W])
    firsts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    start, stop = found.start_W[firsts], found.stop_W[ends - 1]
    target_T = _covered(start, stop, len(chance_T))
    leader_T = np.zeros(len(chance_T), dtype=np.int64)
    leader_T[start] = start
    return Chosen(target_T, np.maximum.accumulate(leader_T))


def _covered(start: np.ndarray, stop: np.ndarray, length: int) -> np.ndarray:
    """Return which of `length` places lie in one of some ranges that do not overlap."""
    turns = np.bincount(start, minlength=length + 1) - np.bincount(stop, minlength=length + 1)
    inside: np.ndarray = turns[:length].cumsum() == 1
    return inside
