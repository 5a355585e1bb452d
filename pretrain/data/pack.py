"""Packing: from a stream of documents to rows of one length, row i a pure function of i.

Shapes: T tokens of a row.
"""

from abc import abstractmethod
from typing import Literal, Protocol

import numpy as np

from lumbre.config import Choice
from lumbre.errors import DataError

from .shards import Documents

Row = dict[str, np.ndarray]
"""input_ids_T and position_ids_T (int64; positions begin at 0 in each document), document_ids_T (int32; 1,
2, ... within the row, 0 is padding)."""


class Rows(Protocol):
    """A split as rows."""

    num_rows: int
    waste: float
    """Share of the rows' places that hold padding."""

    def row(self, index: int) -> Row:
        """Return a row; a pure function of its index in range(num_rows)."""


class PackingConfig(Choice):
    """How documents become rows."""

    @abstractmethod
    def build(self, documents: Documents, seq_length: int, pad_id: int) -> Rows:
        """Return the rows of a split.

        Raises DataError where there is too little text for them.
        """


class ConcatenateConfig(PackingConfig):
    """Documents one after another, cut every seq_length tokens: no padding but in the last row."""

    type: Literal["concatenate"] = "concatenate"

    def build(self, documents: Documents, seq_length: int, pad_id: int) -> "ConcatenatedRows":
        return ConcatenatedRows(documents, seq_length, pad_id)


class PadConfig(PackingConfig):
    """A document a row, filled up with padding; a longer one becomes several rows."""

    type: Literal["pad"] = "pad"

    def build(self, documents: Documents, seq_length: int, pad_id: int) -> "PaddedRows":
        return PaddedRows(documents, seq_length, pad_id)


class ConcatenatedRows:
    """Row i is the tokens [i * T, (i + 1) * T) of the stream."""

    def __init__(self, documents: Documents, seq_length: int, pad_id: int) -> None:
        _check(documents, seq_length if documents.name == "train" else 1)
        self._documents = documents
        self._length = seq_length
        self._pad = pad_id
        self.num_rows = -(-documents.num_tokens // seq_length)
        self.waste = 1 - documents.num_tokens / (self.num_rows * seq_length)

    def row(self, index: int) -> Row:
        """Return a row; a document that was cut has its positions begin anew in each row."""
        start = index * self._length
        stop = min(start + self._length, self._documents.num_tokens)
        starts = self._documents.document_starts(start + 1, stop) - start
        return _filled(self._documents.tokens(start, stop), starts, self._length, self._pad)


class PaddedRows:
    """Document after document, each in as many rows as it needs."""

    def __init__(self, documents: Documents, seq_length: int, pad_id: int) -> None:
        _check(documents, 1)
        self._documents = documents
        self._length = seq_length
        self._pad = pad_id
        self._rows_before = np.concatenate([[0], np.cumsum(-(-documents.lengths // seq_length))])
        self.num_rows = int(self._rows_before[-1])
        self.waste = 1 - documents.num_tokens / (self.num_rows * seq_length)

    def row(self, index: int) -> Row:
        """Return a row: a document, or one of the pieces that it was cut into."""
        document = int(np.searchsorted(self._rows_before, index, side="right")) - 1
        begin, end = self._documents.document(document)
        start = begin + (index - int(self._rows_before[document])) * self._length
        tokens = self._documents.tokens(start, min(start + self._length, end))
        return _filled(tokens, np.empty(0, dtype=np.int64), self._length, self._pad)


def _filled(tokens: np.ndarray, starts: np.ndarray, length: int, pad_id: int) -> Row:
    """Return the row of these tokens, in which documents begin at 0 and at `starts`, padded to `length`."""
    used = len(tokens)
    bounds = np.concatenate([[0], starts, [used]])
    sizes = np.diff(bounds)
    input_ids_T = np.full(length, pad_id, dtype=np.int64)
    position_ids_T = np.zeros(length, dtype=np.int64)
    document_ids_T = np.zeros(length, dtype=np.int32)
    input_ids_T[:used] = tokens
    position_ids_T[:used] = np.arange(used) - np.repeat(bounds[:-1], sizes)
    document_ids_T[:used] = np.repeat(np.arange(1, len(bounds), dtype=np.int32), sizes)
    return {"input_ids": input_ids_T, "position_ids": position_ids_T, "document_ids": document_ids_T}


def _check(documents: Documents, least: int) -> None:
    if documents.num_tokens < least or not documents.num_tokens:
        held = f"{documents.num_tokens:,} tokens in {documents.num_documents:,} documents"
        remedy = (
            f"add text, or set data.seq_length to {documents.num_tokens} at most"
            if documents.num_tokens
            else f"add text, or raise data.{documents.name}_fraction"
            if documents.name != "train"
            else "add text"
        )
        wanted = f"fewer than one row of {least:,}" if documents.num_tokens else "nothing to make a row of"
        raise DataError(f"{documents.folder}: the {documents.name} split has {held}, {wanted}; {remedy}")
