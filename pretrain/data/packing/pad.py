"""Padding: a document a row.

Shapes: T tokens of a row.
"""

from typing import Literal

import numpy as np

from ..shards import Documents
from .base import PackingConfig, Row, check, filled


class PadConfig(PackingConfig):
    """A document a row, filled up with padding; a longer one becomes several rows."""

    type: Literal["pad"] = "pad"

    def build(self, documents: Documents, seq_length: int, pad_id: int) -> "PaddedRows":
        return PaddedRows(documents, seq_length, pad_id)


class PaddedRows:
    """Document after document, each in as many rows as it needs."""

    num_windows = 1

    def __init__(self, documents: Documents, seq_length: int, pad_id: int) -> None:
        check(documents, 1)
        self._documents = documents
        self._length = seq_length
        self._pad = pad_id
        self._rows_before = np.concatenate([[0], np.cumsum(-(-documents.lengths // seq_length))])
        self.num_rows = int(self._rows_before[-1])
        self.waste = 1 - documents.num_tokens / (self.num_rows * seq_length)

    def row(self, index: int) -> Row:
        """Return a row: a document, or one of the pieces that it was cut into."""
        document = self.document(index)
        begin, end = self._documents.document(document)
        start = begin + (index - int(self._rows_before[document])) * self._length
        tokens = self._documents.tokens(start, min(start + self._length, end))
        return filled(tokens, np.empty(0, dtype=np.int64), self._length, self._pad)

    def documents(self, index: int) -> np.ndarray:
        """Return the split's number of a row's one document."""
        return np.array([self.document(index)], dtype=np.int64)

    def document(self, index: int) -> int:
        """Return the number of a row's document."""
        return int(np.searchsorted(self._rows_before, index, side="right")) - 1
