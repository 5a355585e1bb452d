"""Best-fit packing: whole documents fill rows (Ding et al., 2024, arXiv:2404.10830), a window at a time.

A document longer than a row is cut into full rows and a rest. These pieces go to windows by where in the
stream they begin, and a window is packed alone: best-fit-decreasing into a number of rows that is the same
for all, a little more than its tokens need. What fits no row whole is cut over the room that is left, so that
the number of rows follows from the number of tokens and no index is kept.

Shapes: T tokens of a row.
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

from ..order import OPEN_WINDOWS, Permutation
from ..shards import Documents
from .base import PackingConfig, Row, check, filled


class BestFitConfig(PackingConfig):
    """Whole documents, each where it leaves the least room; padding is `room`, and few documents are cut."""

    type: Literal["best_fit"] = "best_fit"
    window_rows: PositiveInt = 2048
    """Rows that are packed together; fewer are packed sooner, and cut more documents."""
    room: Annotated[float, Field(ge=0, lt=1)] = 0.002
    """Rows added to each window, as a share: padding that is paid to cut fewer documents."""

    def build(self, documents: Documents, seq_length: int, pad_id: int) -> "BestFitRows":
        return BestFitRows(documents, seq_length, pad_id, self.window_rows, self.room)


@dataclass(frozen=True)
class Window:
    """Which pieces of the stream the rows of a window hold: row i those from bounds[i] to bounds[i + 1]."""

    starts: np.ndarray
    lengths: np.ndarray
    bounds: np.ndarray


class BestFitRows:
    """Window after window, each in as many rows as any other, packed when one of them is asked for."""

    def __init__(
        self, documents: Documents, seq_length: int, pad_id: int, window_rows: int, room: float
    ) -> None:
        check(documents, seq_length if documents.name == "train" else 1)
        self._documents = documents
        self._length = seq_length
        self._pad = pad_id
        self.num_windows = max(1, documents.num_tokens // (window_rows * seq_length))
        needed = -(-documents.num_tokens // (self.num_windows * seq_length))
        # A window ends with a whole piece, and so holds up to a row more than its share of the stream.
        self._height = needed + max(int(needed * room), 1 if self.num_windows > 1 else 0)
        self.num_rows = self.num_windows * self._height
        self.waste = 1 - documents.num_tokens / (self.num_rows * seq_length)
        # Those of two groups: samples that are made ahead reach into the next.
        self._packed = lru_cache(maxsize=2 * OPEN_WINDOWS)(self._pack)
        self._packing = Lock()

    def row(self, index: int) -> Row:
        """Return a row; a document that was cut has its positions begin anew in each row."""
        number, place = divmod(index, self._height)
        window = self.window(number)
        low, high = window.bounds[place : place + 2].tolist()
        lengths = window.lengths[low:high]
        pieces = zip(window.starts[low:high].tolist(), lengths.tolist(), strict=True)
        parts = [self._documents.tokens(start, start + length) for start, length in pieces]
        tokens = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        return filled(tokens, np.cumsum(lengths)[:-1], self._length, self._pad)

    def documents(self, index: int) -> np.ndarray:
        """Return the split's numbers of a row's documents, which may be one's pieces."""
        number, place = divmod(index, self._height)
        window = self.window(number)
        return self._documents.numbers(window.starts[slice(*window.bounds[place : place + 2].tolist())])

    def window(self, number: int) -> Window:
        """Return what the rows of a window hold; threads that ask for the same wait for one of them."""
        with self._packing:
            return self._packed(number)

    def _pack(self, number: int) -> Window:
        total, count = self._documents.num_tokens, self.num_windows
        starts, lengths = _pieces(
            self._documents, total * number // count, total * (number + 1) // count, self._length
        )
        while len(lengths) < self._height and lengths.max() > 1:
            starts, lengths = _halved(starts, lengths)
        return _window(starts, lengths, self._height, self._length, number)


def _pieces(documents: Documents, low: int, high: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the pieces of at most T tokens begin that begin in [low, high), and their lengths."""
    back = T
    while low and not len(documents.document_starts(max(low - back, 0), low + 1)):
        back *= 2
    end = min(high + T, documents.num_tokens)
    begins = documents.document_starts(max(low - back, 0), end)
    ends = np.append(begins[1:], end)
    skipped = np.maximum(0, -((begins - low) // T))
    counts = np.maximum(0, -((begins - np.minimum(ends, high)) // T) - skipped)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(begins, counts) + (np.repeat(skipped, counts) + within) * T
    return starts, np.minimum(np.repeat(ends, counts) - starts, T)


def _halved(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pieces with the longest cut in two: no row is to be without a token."""
    at = int(lengths.argmax())
    half = int(lengths[at]) // 2
    starts = np.insert(starts, at + 1, starts[at] + half)
    lengths = np.insert(lengths, at + 1, lengths[at] - half)
    lengths[at] = half
    return starts, lengths


def _window(starts: np.ndarray, lengths: np.ndarray, height: int, T: int, seed: int) -> Window:
    """Place every piece in one of `height` rows of T tokens, which have room for all of them."""
    shelf = Shelf(height, T)
    placed: list[tuple[int, int, int]] = []
    order = np.argsort(-lengths, kind="stable")
    pieces = list(zip(starts[order].tolist(), lengths[order].tolist(), strict=True))
    homeless: list[tuple[int, int]] = []
    for left, (start, length) in zip(range(len(pieces), 0, -1), pieces, strict=True):
        room = T if left == shelf.empty else shelf.best_fit(length)
        if room is None:
            homeless.append((start, length))
            continue
        placed.append((shelf.put(room, length), start, length))
    for start, length in homeless:
        while length:
            room = shelf.best_fit(length) or shelf.most()
            part = min(room, length)
            placed.append((shelf.put(room, part), start, part))
            start, length = start + part, length - part
    rows, starts, lengths = np.array(placed, dtype=np.int64).T
    # Mixed, for they were filled by length: evaluation takes the first rows for what all are like.
    rows = Permutation(height, seed).many(rows)
    order = np.lexsort((starts, rows))
    return Window(starts[order], lengths[order], np.searchsorted(rows[order], np.arange(height + 1)))


class Shelf:
    """Rows by the room that is left in them; the next with enough is found in an integer that has bit r set
    where a row has room r."""

    def __init__(self, rows: int, T: int) -> None:
        self._rows: list[list[int]] = [[] for _ in range(T + 1)]
        self._rows[T] = list(range(rows - 1, -1, -1))
        self._rooms = 1 << T

    @property
    def empty(self) -> int:
        """How many rows hold nothing."""
        return len(self._rows[-1])

    def best_fit(self, length: int) -> int | None:
        """Return the least room that a piece of this length fits."""
        fitting = self._rooms >> length
        return length + (fitting & -fitting).bit_length() - 1 if fitting else None

    def most(self) -> int:
        """Return the most room of a row."""
        return self._rooms.bit_length() - 1

    def put(self, room: int, length: int) -> int:
        """Put a piece in a row with this room and return which."""
        row = self._rows[room].pop()
        if not self._rows[room]:
            self._rooms ^= 1 << room
        if length < room:
            self._rows[room - length].append(row)
            self._rooms |= 1 << (room - length)
        return row
