"""Tables: comma- and tab-separated values (RFC 4180) and Apache Parquet, a record a row."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lumbre.errors import DataError, Problem
from lumbre.packed import with_packed

from .base import Example
from .files import FilesConfig, explained, found, lines_of

CSV = with_packed(".csv")
TSV = with_packed(".tsv", ".tab")
PARQUET = (".parquet", ".pq")
LONGEST_VALUE = 1 << 28
"""Most characters of a value: how far a quote that is never closed is followed."""


class TableConfig(FilesConfig):
    """Tables, by the ending of a name: .csv and .tsv, whose values are texts, or .parquet."""

    type: Literal["table"] = "table"
    """The data's name."""
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the columns of .csv and .tsv files that have no header line."""
    quoted: bool | None = None
    """Whether a value in double quotes may hold delimiters and line breaks; left out, in .csv files alone."""

    def problems(self) -> Iterator[Problem]:
        """Report files whose name does not say what they are, and a column named twice."""
        yield from super().problems()
        for split, names in self._names().items():
            for file in found(names):
                if not file.name.endswith((*CSV, *TSV, *PARQUET)):
                    fault = f"the ending of {file} is of no table"
                    yield Problem(split, fault, "it can be .csv, .tsv (packed or not) or .parquet")
        for name in _repeated(self.columns or []):
            yield Problem("columns", f"two columns are named {name!r}", "rename one")

    def records(self, file: Path) -> Iterator[Example]:
        """Yield the rows; raises DataError naming the line of a row whose length is not the header's."""
        return _parquet(file) if file.name.endswith(PARQUET) else self._separated(file)

    def _separated(self, file: Path) -> Iterator[Example]:
        tabs = file.name.endswith(TSV)
        quoted = not tabs if self.quoted is None else self.quoted
        rows = _rows(file, "\t" if tabs else ",", csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        names = self.columns
        for line, row in rows:
            if names is None:
                names = row
                for name in _repeated(names):
                    raise DataError(f"{file}:{line}: two columns are named {name!r}; rename one")
                continue
            if len(row) != len(names):
                remedy = "quote a value with a delimiter" if quoted else "set data.quoted if values are"
                fault = f"the row has {len(row)} values for {len(names)} columns"
                raise DataError(
                    f"{file}:{line}: {fault}; {remedy}, or set data.columns if there is no header"
                )
            yield dict(zip(names, row, strict=True))


def _rows(file: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line on which it begins, values) of each row that is not blank."""
    csv.field_size_limit(LONGEST_VALUE)  # the csv module has one limit for all its readers: 128 KiB
    reader = csv.reader(
        (text for _, text in lines_of(file)), delimiter=delimiter, quoting=quoting, strict=True
    )
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            remedy = "write a quote within a quoted value twice, or set data.quoted"
            raise DataError(f"{file}:{line}: is not a row: {error}; {remedy}") from error
        if row is None:
            return
        if row:
            yield line, row


def _parquet(file: Path) -> Iterator[Example]:
    from pyarrow import parquet

    with _damage(file), parquet.ParquetFile(file) as table:
        for name in _repeated(table.schema_arrow.names):
            raise DataError(f"{file}: two columns are named {name!r}; rename one")
        # Small batches: the first record is looked at before a run, whatever the rows are long.
        for batch in table.iter_batches(batch_size=1024, use_threads=False):
            yield from batch.to_pylist()


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        with explained(file):
            yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        why = str(error).strip().split("\n")[0]
        raise DataError(f"{file}: is no whole Parquet file: {why}; make it anew") from error


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
