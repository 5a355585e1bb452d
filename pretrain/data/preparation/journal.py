"""The journal of a preparation: tokenized units of work, each whole or absent, so that a killed one goes on.

A unit of number N is cut into pieces of text that is read in one go: `N-K.tokens`, the tokens of the
documents of piece K in order, and `N-K.index`, a row of `INDEX` for each of them. `N.json` is written last,
with what the unit skipped; `N-K.json` at the end of a piece that is not the last, so that a long unit which
was killed is read again, but not tokenized again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np

from ..skips import EMPTY, Skip, Skips
from ..sources import BadDocument, Document
from .disk import clear_unfinished, whole_file, write_whole
from .reader import Reader, Unit

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 1 << 13
PIECE_UNITS = 2
"""A piece ends where its text is so many times the bytes of a unit: few that are cut by bytes get two."""

INDEX = np.dtype(
    [
        ("order", "<u8"),  # the first half of the hash of the text
        ("split", "<u8"),  # its second half
        ("source", "<i8"),
        ("file", "<i8"),
        ("record", "<i8"),
        ("unit", "<i4"),
        ("piece", "<i4"),
        ("start", "<i8"),  # in tokens, within the piece
        ("length", "<i8"),
    ]
)


class Encodes(Protocol):
    """What turns documents into tokens; the ids are a function of the documents of one call."""

    def encode_joined(self, texts: Sequence[str], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all documents in one array, and how many there are of each."""


@dataclass(frozen=True)
class UnitRecord:
    """What is known of a unit, or of what is done of it."""

    pieces: int = 0
    items: int = 0
    """Documents and faults read."""
    bytes: int = 0
    """Bytes of the text of the documents."""
    skips: dict[str, Skip] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path) -> "UnitRecord":
        said = json.loads(file.read_text())
        return cls(**(said | {"skips": {reason: Skip(**skip) for reason, skip in said["skips"].items()}}))

    def save(self, file: Path) -> None:
        skips = {reason: skip.model_dump() for reason, skip in self.skips.items()}
        write_whole(file, json.dumps(vars(self) | {"skips": skips}).encode())


class Journal:
    """A folder of tokenized units."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has_key(self, key: str) -> bool:
        """Whether the work that lies in the folder belongs to the plan with this key."""
        mark = self.folder / "key"
        return mark.is_file() and mark.read_text() == key

    def claim(self, key: str) -> None:
        """Begin, or take up what was done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "key", key.encode())
        clear_unfinished(self.folder)

    def has(self, number: int) -> bool:
        """Whether a unit is done."""
        return self._record(number).is_file()

    def record(self, number: int) -> UnitRecord:
        """Return what is known of a unit that is done."""
        return UnitRecord.load(self._record(number))

    def index(self, number: int) -> Iterator[np.ndarray]:
        """Yield the rows of the documents of a unit that is done, piece by piece."""
        for piece in range(self.record(number).pieces):
            yield np.fromfile(self._piece(number, piece, "index"), dtype=INDEX)

    def tokens(self, number: int, piece: int) -> Path:
        """Return the file of the tokens of a piece."""
        return self._piece(number, piece, "tokens")

    def _record(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _piece(self, number: int, piece: int, ending: str) -> Path:
        return self.folder / f"{number}-{piece}.{ending}"

    def _done(self, number: int) -> UnitRecord:
        """Return what is done of a unit that was begun."""
        record = UnitRecord()
        while (file := self._piece(number, record.pieces, "json")).is_file():
            record = UnitRecord.load(file)
        return record

    def write(
        self,
        number: int,
        unit: Unit,
        reader: Reader,
        encoder: Encodes,
        dtype: np.dtype,
        unit_bytes: int,
        on_bad_document: Literal["error", "skip"],
        report: Callable[[int], None],
    ) -> None:
        """Read and tokenize a unit, from where it was left; `report` is told the bytes of text done."""
        record = self._done(number)
        items = _Counted(islice(reader.items(unit), record.items, None), record.items)
        skips = Skips(on_bad_document, dict(record.skips))
        documents = reader.kept(unit, items, skips)
        done = record.bytes
        is_last = False
        while not is_last:
            end = done + PIECE_UNITS * unit_bytes
            piece = record.pieces
            with (
                whole_file(self._piece(number, piece, "tokens")) as tokens,
                whole_file(self._piece(number, piece, "index")) as index,
            ):
                writer = _Piece(number, piece, unit, reader, encoder, dtype, skips, tokens, index)
                while not is_last and done < end:
                    batch = _batch(documents, end - done)
                    is_last = not batch
                    done += writer.add(batch) if batch else 0
                    report(done)
            record = UnitRecord(piece + 1, items.count, done, skips.by_reason)
            record.save(self._record(number) if is_last else self._piece(number, piece, "json"))


class _Piece:
    """Writes the documents of a piece."""

    def __init__(
        self,
        number: int,
        piece: int,
        unit: Unit,
        reader: Reader,
        encoder: Encodes,
        dtype: np.dtype,
        skips: Skips,
        tokens: BinaryIO,
        index: BinaryIO,
    ) -> None:
        self._place = (number, piece)
        self._unit = unit
        self._reader = reader
        self._encoder = encoder
        self._dtype = dtype
        self._skips = skips
        self._tokens = tokens
        self._index = index
        self._total = 0

    def add(self, batch: list[Document]) -> int:
        """Tokenize and write documents; return the bytes of their text."""
        tokens, lengths = self._encoder.encode_joined([document.text for document in batch], self._dtype)
        for document in compress(batch, lengths == 0):
            self._skips.add(EMPTY, lambda document=document: self._reader.place(self._unit, document))  # type: ignore[misc]
        raw = [document.text.encode() for document in batch]
        hashes = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in raw)
        rows = np.empty(len(batch), dtype=INDEX)
        rows["order"], rows["split"] = np.frombuffer(hashes, dtype="<u8").reshape(-1, 2).T
        rows["source"] = self._unit.source
        rows["file"] = [document.file for document in batch]
        rows["record"] = [document.record for document in batch]
        rows["unit"], rows["piece"] = self._place
        rows["start"] = self._total + np.cumsum(lengths) - lengths
        rows["length"] = lengths
        self._tokens.write(tokens.data)
        self._index.write(rows[lengths > 0].data)
        self._total += len(tokens)
        return sum(map(len, raw))


class _Counted:
    """Items with a count of those that were taken."""

    def __init__(self, items: Iterator[Document | BadDocument], count: int) -> None:
        self._items = items
        self.count = count

    def __iter__(self) -> Iterator[Document | BadDocument]:
        for one in self._items:
            self.count += 1
            yield one


def _batch(documents: Iterator[Document], most_bytes: int) -> list[Document]:
    """Take the next documents: about a batch, and not much more than so many bytes of text."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= min(BATCH_CHARACTERS, most_bytes) or len(batch) == BATCH_DOCUMENTS:
            break
    return batch
