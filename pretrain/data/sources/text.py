"""Plain text: a document a file, a line or a paragraph."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lumbre.packed import is_packed, open_unpacked

from .base import BadDocument, Document, FaultError, Part, decoded
from .files import FilesConfig, line_of
from .lines import lines_from, paragraphs_from


class TextConfig(FilesConfig):
    """Plain text in UTF-8."""

    type: Literal["text"] = "text"
    documents: Literal["file", "line", "paragraph"] = "file"
    """What one document is; paragraphs stand between blank lines."""

    def can_split(self, path: Path) -> bool:
        return self.documents != "file" and not is_packed(path)

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        with open_unpacked(path) as file:
            if self.documents == "file":
                if part.start == 0:
                    yield Document(decoded(file.read()), part.file, 0)
                return
            cut = lines_from if self.documents == "line" else paragraphs_from
            for record, raw in cut(file, part.start, part.end):
                try:
                    yield Document(decoded(raw, record), part.file, record)
                except FaultError as fault:
                    yield fault.at(part.file, record)

    def place(self, path: Path, record: int) -> str:
        return f"{path}" if self.documents == "file" else line_of(path, record)
