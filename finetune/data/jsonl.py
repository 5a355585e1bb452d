"""JSON lines: an object a line (https://jsonlines.org)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lumbre.errors import DataError

from .base import Example
from .files import FilesConfig, lines_of


class JsonlConfig(FilesConfig):
    """JSON lines, an object a line."""

    type: Literal["jsonl"] = "jsonl"
    """The data's name."""

    def records(self, file: Path) -> Iterator[Example]:
        """Yield the objects; raises DataError naming the line that is none."""
        for number, line in lines_of(file):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}:{number}: is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{file}:{number}: a JSON object is expected, got a {type(record).__name__}")
            yield record
