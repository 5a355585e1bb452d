"""Raw documents: where they come from, in a fixed order, by ranges of the input."""

import gzip
import json
import stat
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal, cast

from lumbre import stdlib
from lumbre.config import Choice
from lumbre.errors import Problem

from .lines import lines_from, paragraphs_from


@dataclass(frozen=True)
class Document:
    """A text, the place of its file in the source's list, and its record in that file.

    The record of a line or paragraph is the byte at which it begins; else it counts from 0.
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
    record: int


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

    def can_split(self, path: Path) -> bool:
        """Whether a range of the file can be read without what stands before it."""
        return False

    @abstractmethod
    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        """Yield the documents that begin within a part of the file.

        Raises OSError, EOFError or zlib.error where the file cannot be read, UnicodeDecodeError or
        SyntaxError where it is not what it has to be.
        """

    def place(self, path: Path, record: int) -> str:
        """Return where in the file a record stands, as a person looks for it."""
        return f"{path}: record {record}"

    def documents_in(self, files: Sequence[Path], part: Part) -> Iterator[Document | BadDocument]:
        """Yield the documents and the faults of a part; a file that cannot be read is one fault."""
        path = files[part.file]
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                yield BadDocument("not a regular file", part.file, 0)
                return
            yield from map(_checked, self.read(path, part))
        except UnicodeDecodeError:
            yield BadDocument("invalid UTF-8", part.file, 0)
        except SyntaxError:
            yield BadDocument("not Python", part.file, 0)
        except (OSError, EOFError, zlib.error):
            yield BadDocument("unreadable file", part.file, 0)


class StdlibConfig(SourceConfig):
    """Documentation and source text of the installed standard library: a corpus on every machine."""

    type: Literal["stdlib"] = "stdlib"
    unit: stdlib.Unit = "definition"
    """A document a file (module), or a document a function, class or docstring (definition)."""
    hold_out: bool = True
    """Whether the modules of the shipped fine-tuning task's validation and test splits are left out."""

    def files(self) -> list[Path]:
        return list(_modules(self.hold_out))

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        definitions = stdlib.documents_of(_modules(self.hold_out)[path], path, self.unit)
        for record, definition in enumerate(definitions):
            yield Document(definition.text, part.file, record)


class FilesConfig(SourceConfig):
    """What sources of the user's own files share."""

    paths: list[str]
    """Files, folders (every file below them) and globs (`**` for any depth); `.gz` is unpacked."""

    def missing(self) -> Iterator[Problem]:
        if not self.paths:
            yield Problem("paths", "no path is named", "name files, folders or globs")
        for index, path in enumerate(self.paths):
            if not _expand(path, self.endings):
                fault = "matches no file" if _is_glob(path) else "does not exist"
                if Path(path).is_dir():
                    fault = f"holds no file that ends in {', '.join(self.endings)}"
                yield Problem(f"paths.{index}", f"{path} {fault}", f"it is looked for from {Path.cwd()}")

    @property
    def endings(self) -> tuple[str, ...]:
        """How the names of the files that are taken from a folder end; none: every name."""
        return ()

    def files(self) -> list[Path]:
        return sorted({file for path in self.paths for file in _expand(path, self.endings)})


class TextConfig(FilesConfig):
    """Plain text in UTF-8."""

    type: Literal["text"] = "text"
    documents: Literal["file", "line", "paragraph"] = "file"
    """What one document is; paragraphs stand between blank lines."""

    def can_split(self, path: Path) -> bool:
        return self.documents != "file" and path.suffix != ".gz"

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        with _open(path) as file:
            if self.documents == "file":
                if part.start == 0:
                    yield Document(_text(file.read()), part.file, 0)
                return
            cut = lines_from if self.documents == "line" else paragraphs_from
            for record, raw in cut(file, part.start, part.end):
                try:
                    yield Document(_text(raw), part.file, record)
                except UnicodeDecodeError:
                    yield BadDocument("invalid UTF-8", part.file, record)

    def place(self, path: Path, record: int) -> str:
        return f"{path}" if self.documents == "file" else _line_of(path, record)


class JsonlConfig(FilesConfig):
    """A JSON object a line, the text in one of its fields."""

    type: Literal["jsonl"] = "jsonl"
    field: str = "text"
    """The key of the text."""

    @property
    def endings(self) -> tuple[str, ...]:
        return (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")

    def can_split(self, path: Path) -> bool:
        return path.suffix != ".gz"

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        with _open(path) as file:
            for record, raw in lines_from(file, part.start, part.end):
                if not raw.strip():
                    continue
                text, reason = self._text(raw)
                yield BadDocument(reason, part.file, record) if reason else Document(text, part.file, record)

    def place(self, path: Path, record: int) -> str:
        return _line_of(path, record)

    def _text(self, raw: bytes) -> tuple[str, str]:
        try:
            record = json.loads(_text(raw))
        except UnicodeDecodeError:
            return "", "invalid UTF-8"
        except (ValueError, RecursionError):
            return "", "not JSON"
        if not isinstance(record, dict):
            return "", "not a JSON object"
        if self.field not in record:
            return "", f"no field {self.field!r}"
        text = record[self.field]
        return (text, "") if isinstance(text, str) else ("", f"field {self.field!r} is not a string")


@cache
def _modules(hold_out: bool) -> dict[Path, str]:
    leave_out = stdlib.held_out_modules() if hold_out else frozenset()
    return {path: module for module, path in stdlib.corpus_files(leave_out).items()}


def _checked(document: Document | BadDocument) -> Document | BadDocument:
    if isinstance(document, Document):
        if "\0" in document.text:
            return BadDocument("NUL byte", document.file, document.record)
        try:
            document.text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, written as a JSON escape
            return BadDocument("invalid Unicode", document.file, document.record)
    return document


def _text(raw: bytes) -> str:
    return raw.decode("utf-8").removeprefix("\ufeff")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _line_of(path: Path, record: int) -> str:
    with _open(path) as file:
        line, left = 1, record
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
    return f"{path}: line {line}"


def _is_glob(path: str) -> bool:
    return any(letter in path for letter in "*?[")


def _expand(path: str, endings: tuple[str, ...]) -> list[Path]:
    """Return the files that a path stands for, broken links too: they are faults, not absences."""
    if not _is_glob(path):
        found = [Path(path)] if Path(path).exists() else []
    else:
        anchor = Path(Path(path).anchor)
        found = list(anchor.glob(str(Path(path).relative_to(anchor))))
    files: list[Path] = []
    for one in found:
        if one.is_dir():
            inside = (file for file in one.rglob("*") if not file.is_dir())
            files += (
                file
                for file in inside
                if not any(part.startswith(".") for part in file.relative_to(one).parts)
                and (not endings or file.name.endswith(endings))
            )
        else:
            files.append(one)
    return files
