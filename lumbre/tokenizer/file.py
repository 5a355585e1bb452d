"""A tokenizer that exists, read from its files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from lumbre.errors import Problem, TokenizerError

from . import formats
from .base import Tokenizer, TokenizerConfig, read_json


class FileTokenizerConfig(TokenizerConfig):
    """A tokenizer that exists: one of the published files, or a Hugging Face folder that holds it."""

    type: Literal["file"] = "file"
    path: str
    """A tokenizer.json, vocab.txt, vocab.json (merges.txt beside it), spiece.model, or their folder."""
    lowercase: bool | None = None
    """Whether a vocab.txt is of lowercased text, where no tokenizer_config.json beside it says so."""

    def problems(self) -> Iterator[Problem]:
        """Report files that are missing, and a vocab.txt of which nothing says whether it is lowercased."""
        files = formats.find(Path(self.path))
        if isinstance(files, Problem):
            yield files
            return
        if not formats.is_wordpiece(files):
            if self.lowercase is not None:
                yield Problem("lowercase", f"{files[0].name} says so itself", "leave the key out")
            return
        try:
            said = read_json(files[0].parent / "tokenizer_config.json").get("do_lower_case")
        except TokenizerError as error:
            yield Problem("path", str(error))
            return
        if said is None and self.lowercase is None:
            fault = f"nothing says whether {files[0]} is of lowercased text"
            yield Problem("lowercase", fault, "set true (uncased) or false (cased)")
        elif None not in (said, self.lowercase) and said != self.lowercase:
            yield Problem(
                "lowercase", f"the tokenizer_config.json beside it says {said}", "leave the key out"
            )

    def build(self, texts: Iterable[str]) -> Tokenizer:
        for problem in self.problems():
            raise TokenizerError(f"tokenizer.{problem}")
        files = formats.find(Path(self.path))
        assert not isinstance(files, Problem)
        return formats.read(files, self.lowercase)
