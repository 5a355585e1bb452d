"""A tokenizer that exists, read from its files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from lumbre.errors import Problem

from .base import Tokenizer, TokenizerConfig


class FileTokenizerConfig(TokenizerConfig):
    """A tokenizer that exists: a tokenizer.json, or a Hugging Face folder that holds one."""

    type: Literal["file"] = "file"
    path: str
    """The tokenizer.json or its folder."""

    def problems(self) -> Iterator[Problem]:
        path = Path(self.path)
        if not path.exists():
            yield Problem("path", f"{self.path} does not exist", "name a tokenizer.json or a folder with one")
        elif path.is_dir() and not (path / "tokenizer.json").is_file():
            yield Problem("path", f"{self.path} holds no tokenizer.json", "save it as a fast tokenizer")

    def build(self, texts: Iterable[str]) -> Tokenizer:
        return Tokenizer.load(self.path)
