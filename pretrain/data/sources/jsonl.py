"""JSON lines: an object a line, the text in one of its fields."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import orjson

from lumbre.packed import is_packed, open_unpacked, with_packed

from .base import BadDocument, Document, FaultError, Part, decoded, text_of
from .files import FilesConfig, line_of
from .lines import lines_from


class JsonlConfig(FilesConfig):
    """A JSON object a line, the text in one of its fields."""

    type: Literal["jsonl"] = "jsonl"
    text_field: str = "text"
    """The key of the text."""

    @property
    def endings(self) -> tuple[str, ...]:
        return with_packed(".jsonl", ".json", ".ndjson")

    def can_split(self, path: Path) -> bool:
        return not is_packed(path)

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        with open_unpacked(path) as file:
            for record, raw in lines_from(file, part.start, part.end):
                if not raw.strip():
                    continue
                try:
                    yield Document(self._text(raw, record), part.file, record)
                except FaultError as fault:
                    yield fault.at(part.file, record)

    def _text(self, raw: bytes, record: int) -> str:
        """Return the text of a line; json judges what orjson does not take or finds no text in."""
        try:
            text = orjson.loads(raw)[self.text_field]
        except (ValueError, LookupError, TypeError, RecursionError):
            text = None
        return text if isinstance(text, str) else text_of(_parsed(raw, record), self.text_field)

    def place(self, path: Path, record: int) -> str:
        return line_of(path, record)


def _parsed(raw: bytes, record: int) -> object:
    try:
        return json.loads(decoded(raw, record))
    except (ValueError, RecursionError) as error:
        raise FaultError("not JSON", "write one JSON object a line") from error
