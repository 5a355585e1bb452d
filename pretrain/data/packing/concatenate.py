"""Concatenation: documents one after another, cut every T tokens.

Shapes: T tokens of a row.
"""

from typing import Literal

import numpy as np

from ..shards import Documents
from .base import PackingConfig, Row, check, filled


class ConcatenateConfig(PackingConfig):
    """Documents one after another, cut every seq_length tokens: no padding but in the last row."""

    type: Literal["concatenate"] = "concatenate"

    def build(self, documents: Documents, seq_length: int, pad_id: int) -> "ConcatenatedRows":
        return ConcatenatedRows(documents, seq_length, pad_id)


class ConcatenatedRows:
    """Row i is the tokens [i * T, (i + 1) * T) of the stream."""

    num_windows = 1

    def __init__(self, documents: Documents, seq_length: int, pad_id: int) -> None:
        check(documents, seq_length if documents.name == "train" else 1)
        self._documents = documents
        self._length = seq_length
        self._pad = pad_id
        self.num_rows = -(-documents.num_tokens // seq_length)
        self.waste = 1 - documents.num_tokens / (self.num_rows * seq_length)

    def row(self, index: int) -> Row:
        """Return a row; a document that was cut has its positions begin anew in each row."""
        start, stop = self._bounds(index)
        starts = self._documents.document_starts(start + 1, stop) - start
        return filled(self._documents.tokens(start, stop), starts, self._length, self._pad)

    def documents(self, index: int) -> np.ndarray:
        """Return the split's numbers of a row's documents."""
        start, stop = self._bounds(index)
        return self._documents.numbers(np.append(start, self._documents.document_starts(start + 1, stop)))

    def _bounds(self, index: int) -> tuple[int, int]:
        start = index * self._length
        return start, min(start + self._length, self._documents.num_tokens)
