"""What a source is: documents in a fixed order, and faults where a document should be, by ranges of files."""

import stat
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lumbre.config import Choice
from lumbre.errors import Problem
from lumbre.packed import DAMAGE

FIELDS_SHOWN = 20


class FaultError(Exception):
    """Why a document or a file cannot be used; a source turns it into a BadDocument."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def at(self, file: int, record: int | None = None) -> "BadDocument":
        """Return the fault with its place."""
        return BadDocument(self.reason, file, record, self.hint)


BROKEN = (FaultError, UnicodeDecodeError, SyntaxError, *DAMAGE)
"""What is raised where a file cannot be read on."""


@dataclass(frozen=True)
class Document:
    """A text, the place of its file in the source's list, and its record in that file.

    Records grow along the file. That of a line, a paragraph or a row of CSV is the byte at which it begins.
    """

    text: str
    file: int
    record: int


@dataclass(frozen=True)
class BadDocument:
    """What stands where a document should be."""

    reason: str
    """A short name of the fault, by which skips are counted."""
    file: int
    record: int | None = None
    """None: the fault is the file's."""
    hint: str = ""
    """What there is instead, and what to do about it."""


@dataclass(frozen=True)
class Part:
    """A range of bytes of one file: the unit of reading. `end` may lie beyond the end of the file."""

    file: int
    start: int
    end: int


class SourceConfig(Choice):
    """A place where raw text comes from."""

    def missing(self) -> Iterator[Problem]:
        """Yield what is not there; keys are relative to the source."""
        yield from ()

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the source's files in a fixed order."""

    @property
    def has_size(self) -> bool:
        """Whether the sizes of the files are known before they are read."""
        return True

    def can_split(self, path: Path) -> bool:
        """Whether a range of the file can be read without what stands before it."""
        return False

    def around(self, path: Path, part: Part) -> Part:
        """Return a range about a part, of a file that can be split, in which documents begin."""
        return part

    def check(self, path: Path) -> None:
        """Raise one of BROKEN if no part of the file can be read."""
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FaultError("unreadable folder", "permit reading it")
        if not stat.S_ISREG(mode):
            raise FaultError("not a regular file")
        with path.open("rb"):
            pass

    @abstractmethod
    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        """Yield the documents that begin within a part of the file; raises one of BROKEN where it is."""

    def place(self, path: Path, record: int) -> str:
        """Return where in the file a record stands, as a person looks for it."""
        return f"{path}: record {record}"

    def documents_in(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        """Yield the documents and the faults of a part; a file that cannot be read is one fault."""
        try:
            self.check(path)
        except BROKEN as error:
            if part.start == 0:  # else another part has said so
                yield _fault(error).at(part.file)
            return
        try:
            yield from map(_checked, self.read(path, part))
        except BROKEN as error:
            yield _fault(error).at(part.file)


def decoded(raw: bytes, at: int = 0) -> str:
    """Return UTF-8 as text, without a byte order mark; `at` is where it stands in the file.

    Raises FaultError with the offset of the first byte that is none.
    """
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        offset = at + error.start
        raise FaultError(
            "invalid UTF-8", f"byte {offset} of the text is {raw[error.start]:#04x}: save it as UTF-8"
        ) from error


def text_of(record: object, field: str) -> str:
    """Return the text of a record. Raises FaultError with the fields there are."""
    if not isinstance(record, Mapping):
        raise FaultError("not a JSON object", f'write {{"{field}": ...}}')
    if field not in record:
        raise no_field(field, list(record))
    text = record[field]
    if not isinstance(text, str):
        raise FaultError(
            f"field {field!r} is not a string", f"it is {type(text).__name__}: {set_text_field(list(record))}"
        )
    return text


def no_field(field: str, there_are: Sequence[object]) -> FaultError:
    """Return the fault of what lacks the field of the text."""
    return FaultError(f"no field {field!r}", set_text_field(there_are))


def set_text_field(there_are: Sequence[object]) -> str:
    """Return the remedy for a wrong field: those there are."""
    if not there_are:
        return "there are no fields"
    more = ", ..." if len(there_are) > FIELDS_SHOWN else ""
    names = ", ".join(map(repr, there_are[:FIELDS_SHOWN]))
    return f"the fields are {names}{more}: set text_field to that of the text"


def _fault(error: Exception) -> FaultError:
    if isinstance(error, FaultError):
        return error
    if isinstance(error, UnicodeDecodeError):
        return FaultError("invalid UTF-8")
    if isinstance(error, SyntaxError):
        return FaultError("not Python")
    why = getattr(error, "strerror", None) or str(error).split("\n")[0]
    return FaultError("unreadable file", f"{why}: mend or remove it" if why else "")


def _checked(document: Document | BadDocument) -> Document | BadDocument:
    if isinstance(document, Document):
        if "\0" in document.text:
            return BadDocument("NUL byte", document.file, document.record)
        try:
            _ = document.text.isascii() or document.text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, written as a JSON escape
            return BadDocument("invalid Unicode", document.file, document.record)
    return document
