"""Tables in blocks of rows that can be read one by one: what Parquet and Arrow share.

A file of n blocks and s bytes is cut as if block i began at byte i * s // n. So ranges of bytes that cover
the file own each block once, whatever its true place.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from .base import BadDocument, Document, FaultError, Part, decoded, no_field, set_text_field
from .files import FilesConfig

ROWS_AT_ONCE = 64
ROW_BITS = 32


class Blocks(Protocol):
    """An open table."""

    @property
    def count(self) -> int:
        """How many blocks there are."""

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, Iterator[Any]]]:
        """Yield (block, pieces of its column of text as Arrow arrays) for a range of blocks."""


class BlocksConfig(FilesConfig):
    """A table of which one column holds the texts."""

    text_field: str = "text"
    """The column of the text."""

    @property
    @abstractmethod
    def block(self) -> str:
        """What a block is called."""

    @abstractmethod
    def opened(self, path: Path) -> AbstractContextManager[Blocks]:
        """Open a table whose column of text is known to be one."""

    def can_split(self, path: Path) -> bool:
        return True

    def check(self, path: Path) -> None:
        super().check(path)
        with self.opened(path):
            pass

    def around(self, path: Path, part: Part) -> Part:
        size = path.stat().st_size
        try:
            with self.opened(path) as blocks:
                count = blocks.count
        except FaultError:
            count = 0
        if not count:
            return Part(part.file, 0, size)
        block = -(-part.start * count // size)
        if block * size // count >= min(part.end, size):  # none begins in the part: it lies in one
            block = part.start * count // size
        return Part(part.file, block * size // count, max((block + 1) * size // count, part.end))

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        size = path.stat().st_size
        with self.opened(path) as blocks:
            start, stop = (min(-(-at * blocks.count // size), blocks.count) for at in (part.start, part.end))
            for block, pieces in blocks.columns(start, stop):
                yield from self._documents(part.file, block << ROW_BITS, pieces)

    def place(self, path: Path, record: int) -> str:
        row = record & ((1 << ROW_BITS) - 1)
        return f"{path}: {self.block} {record >> ROW_BITS}, row {row} (from 0)"

    def _documents(self, file: int, record: int, pieces: Iterator[Any]) -> Iterator[Document | BadDocument]:
        try:
            with named_damage(f"damaged {self.block}"):
                for piece in pieces:
                    for raw in _bytes_of(piece):
                        try:
                            yield Document(self._text(raw), file, record)
                        except FaultError as fault:
                            yield fault.at(file, record)
                        record += 1
        except FaultError as fault:
            yield fault.at(file, record)

    def _text(self, raw: bytes | None) -> str:
        if raw is None:
            raise FaultError(f"field {self.text_field!r} is not a string", "it is null: leave the row out")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return decoded(raw)

    def index_of_text(self, schema: Any) -> int:
        """Return the place of the column of text in an Arrow schema.

        Raises FaultError if there is none of the name, or if it does not hold strings.
        """
        with named_damage("unreadable file"):
            names = schema.names
        if self.text_field not in names:
            raise no_field(self.text_field, names)
        index = int(schema.get_field_index(self.text_field))
        if index < 0:
            raise FaultError(f"two fields {self.text_field!r}", "rename one")
        kind = schema.field(index).type
        if not _is_string(kind):
            strings = [field.name for field in schema if _is_string(field.type)]
            hint = f"it is {kind}: {set_text_field(strings)}" if strings else f"it is {kind}"
            raise FaultError(f"field {self.text_field!r} is not a string", hint)
        return index


@contextmanager
def named_damage(reason: str) -> Iterator[None]:
    """Turn what pyarrow raises on broken input into a fault."""
    import pyarrow as pa

    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # a column's name may be broken too
        why = str(error).strip().split("\n")[0]
        raise FaultError(reason, f"{why}: make it anew or remove it") from error


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _bytes_of(piece: Any) -> Iterator[bytes | None]:
    """Yield the values as bytes, so that one that is not UTF-8 leaves the others whole."""
    import pyarrow as pa

    for start in range(0, len(piece), ROWS_AT_ONCE):
        rows = piece.slice(start, ROWS_AT_ONCE)
        rows = rows.dictionary_decode() if pa.types.is_dictionary(rows.type) else rows
        rows = rows.cast(pa.binary() if pa.types.is_string(rows.type) else pa.large_binary())
        rows.validate(full=True)  # offsets that lead out of the buffer would end the process
        yield from rows.to_pylist()
