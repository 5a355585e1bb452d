"""Column files of the CoNLL shared tasks: a token a line, blank lines between sentences
(Tjong Kim Sang & De Meulder, 2003, aclanthology.org/W03-0419)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from lumbre.errors import DataError, Problem

from .base import Example
from .files import FilesConfig, lines_of

BLANKS = re.compile(r"[ \t]+")
DOCUMENT = "-DOCSTART-"
"""The token of a line that begins a document and is of no sentence."""


class ConllConfig(FilesConfig):
    """CoNLL column files: a token a line with its tags, blank lines between sentences."""

    type: Literal["conll"] = "conll"
    """The data's name."""
    token_column: int = 0
    """Number of the token's column, from 0; a negative one counts from the last, which is -1."""
    tag_column: int = -1
    """Number of the tag's column."""

    def problems(self) -> Iterator[Problem]:
        """Report one column for both."""
        yield from super().problems()
        if self.token_column == self.tag_column:
            yield Problem("tag_column", "is the column of the token", "name the column of the tag")

    def records(self, file: Path) -> Iterator[Example]:
        """Yield the sentences as `tokens` and `tags`; raises DataError naming the line that lacks one."""
        tokens: list[str] = []
        tags: list[str] = []
        width = 0
        for number, line in lines_of(file):
            columns = BLANKS.split(line.strip(" \t\r\n"))
            if columns[0] not in ("", DOCUMENT):
                token, tag = self._pair(columns, width or len(columns), f"{file}:{number}")
                width = len(columns)
                tokens.append(token)
                tags.append(tag)
            elif tokens:
                yield {"tokens": tokens, "tags": tags}
                tokens, tags = [], []
        if tokens:
            yield {"tokens": tokens, "tags": tags}

    def _pair(self, columns: list[str], width: int, place: str) -> tuple[str, str]:
        if len(columns) != width:
            fault = f"{len(columns)} columns, and the lines before have {width}"
            raise DataError(f"{place}: {fault}; write a token without blanks, and every column on each line")
        at_token, at_tag = (one % width if -width <= one < width else None for one in self._columns)
        if at_token is None or at_tag is None or at_token == at_tag:
            fault = f"of {width} columns, {self.token_column} and {self.tag_column} are not two"
            raise DataError(f"{place}: {fault}; set data.token_column and data.tag_column")
        return columns[at_token], columns[at_tag]

    @property
    def _columns(self) -> tuple[int, int]:
        return self.token_column, self.tag_column
