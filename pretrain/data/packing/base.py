"""What each packing is: from a stream of documents to rows of one length, row i a pure function of i.

Shapes: T tokens of a row.
"""

from abc import abstractmethod
from typing import Protocol

import numpy as np

from lumbre.config import Choice
from lumbre.errors import DataError

from ..shards import Documents

Row = dict[str, np.ndarray]
"""input_ids_T and position_ids_T (int64; positions begin at 0 in each document), document_ids_T (int32; 1,
2, ... within the row, 0 is padding)."""


class Rows(Protocol):
    """A split as rows."""

    num_rows: int
    num_windows: int
    """Of how many equal runs of rows each is made as a whole, when its first row is asked for."""
    waste: float
    """Share of the rows' places that hold padding."""

    def row(self, index: int) -> Row:
        """Return a row; a pure function of its index in range(num_rows), for any thread."""

    def documents(self, index: int) -> np.ndarray:
        """Return the split's numbers of a row's documents 1, 2, ..., as int64."""


class PackingConfig(Choice):
    """How documents become rows."""

    @abstractmethod
    def build(self, documents: Documents, seq_length: int, pad_id: int) -> Rows:
        """Return the rows of a split.

        Raises DataError where there is too little text for them.
        """


def filled(tokens: np.ndarray, starts: np.ndarray, length: int, pad_id: int) -> Row:
    """Return the row of these tokens, in which documents begin at 0 and at `starts`, padded to `length`."""
    used = len(tokens)
    if used == length and not len(starts):
        positions_T, documents_T = np.arange(length), np.ones(length, dtype=np.int32)
        return {"input_ids": tokens, "position_ids": positions_T, "document_ids": documents_T}
    bounds = np.concatenate([[0], starts, [used]])
    sizes = np.diff(bounds)
    input_ids_T = np.full(length, pad_id, dtype=np.int64)
    position_ids_T = np.zeros(length, dtype=np.int64)
    document_ids_T = np.zeros(length, dtype=np.int32)
    input_ids_T[:used] = tokens
    position_ids_T[:used] = np.arange(used) - np.repeat(bounds[:-1], sizes)
    document_ids_T[:used] = np.repeat(np.arange(1, len(bounds), dtype=np.int32), sizes)
    return {"input_ids": input_ids_T, "position_ids": position_ids_T, "document_ids": document_ids_T}


def check(documents: Documents, least: int) -> None:
    """Raise DataError where a split has fewer tokens than `least`, or none."""
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
