"""Comma-separated values with a header (RFC 4180), the text in one of the columns."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from lumbre.packed import is_packed, open_unpacked, with_packed

from .base import BadDocument, Document, FaultError, Part, decoded, no_field
from .files import FilesConfig, line_of
from .lines import lines_from

LONGEST_VALUE = 1 << 28
"""Most characters of a value: how far a quote that is never closed is followed."""


class CsvConfig(FilesConfig):
    """A row of values a document, the text in the column that the header names so."""

    type: Literal["csv"] = "csv"
    text_field: str = "text"
    """The column of the text."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What stands between values; "\\t" for tab-separated ones."""
    multiline: bool = True
    """Whether a quoted value may hold line breaks; a file is read in ranges only if none does."""

    @property
    def endings(self) -> tuple[str, ...]:
        return with_packed(".csv", ".tsv")

    def can_split(self, path: Path) -> bool:
        return not self.multiline and not is_packed(path)

    def check(self, path: Path) -> None:
        super().check(path)
        if self.text_field not in (names := self._header(path)):
            raise no_field(self.text_field, names)

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        csv.field_size_limit(LONGEST_VALUE)  # the csv module has one limit for all its readers: 128 KiB
        names = self._header(path)
        column = names.index(self.text_field)
        with open_unpacked(path) as file:
            for record, row in self._rows(file, part):
                if record == 0 or row == []:
                    continue
                if isinstance(row, FaultError):
                    yield row.at(part.file, record)
                elif len(row) != len(names):
                    hint = f"the header has {len(names)}, the row {len(row)}: quote a value with a delimiter"
                    yield BadDocument("wrong number of values", part.file, record, hint)
                else:
                    yield Document(row[column], part.file, record)

    def place(self, path: Path, record: int) -> str:
        return line_of(path, record)

    def _header(self, path: Path) -> list[str]:
        with open_unpacked(path) as file:
            _, names = next(_parsed(file, 0, self.delimiter), (0, []))
        if isinstance(names, FaultError):
            raise names
        return names

    def _rows(self, file: BinaryIO, part: Part) -> Iterator[tuple[int, list[str] | FaultError]]:
        if self.multiline:
            yield from _parsed(file, 0, self.delimiter)
        else:
            for at, raw in lines_from(file, part.start, part.end):
                yield from _parsed(io.BytesIO(raw), at, self.delimiter)


class _Lines:
    """The lines of a file as text; knows where the next begins, and the fault of those since `take`."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self._file = file
        self.at = at
        self._fault: FaultError | None = None

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        at = self.at
        self.at += len(raw)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "replace")
            try:
                decoded(raw, at)
            except FaultError as fault:
                self._fault = self._fault or fault
        return text.removeprefix("\ufeff") if at == 0 else text

    def take(self) -> FaultError | None:
        fault, self._fault = self._fault, None
        return fault


def _parsed(file: BinaryIO, at: int, delimiter: str) -> Iterator[tuple[int, list[str] | FaultError]]:
    lines = _Lines(file, at)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        at = lines.at
        try:
            row = next(rows, None)
        except csv.Error as error:
            lines.take()
            yield at, FaultError("not CSV", f"{error}: write a quote within a quoted value twice")
            continue
        if row is None:
            return
        yield at, lines.take() or row
