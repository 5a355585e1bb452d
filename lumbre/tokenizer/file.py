"""A tokenizer that exists, read from its files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from lumbre.errors import Problem, TokenizerError

from . import formats
from .base import NAMING, SPECIAL_NAME, Tokenizer, TokenizerConfig, read_json, usual_roles


class FileTokenizerConfig(TokenizerConfig):
    """A tokenizer that exists: one of the published files, or a Hugging Face folder that holds it."""

    type: Literal["file"] = "file"
    path: str
    """A tokenizer.json, vocab.txt, vocab.json (merges.txt beside it), spiece.model, or their folder."""
    lowercase: bool | None = None
    """Whether a vocab.txt is of lowercased text, where no tokenizer_config.json beside it says so."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens to add to those of the files, say <|user|>; one named <mask> plays that role."""

    def problems(self) -> Iterator[Problem]:
        """Report files that are missing, and a vocab.txt of which nothing says whether it is lowercased."""
        for index, name in enumerate(self.special_tokens):
            if not SPECIAL_NAME.fullmatch(name):
                yield Problem(f"special_tokens.{index}", f"{name!r} could be a word of the text", NAMING)
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
        tokenizer = formats.read(files, self.lowercase)
        if not self.special_tokens:
            return tokenizer
        tokenizer.backend.add_special_tokens(list(self.special_tokens))
        tokenizer = Tokenizer(tokenizer.backend, usual_roles(tokenizer.specials, self.special_tokens))
        for name in self.special_tokens:
            if tokenizer.special_ids.intersection(tokenizer.ids([name])[0].tolist()):
                fault = f"text that names {name!r} would be read as that token by {self.path}"
                raise TokenizerError(f"tokenizer.special_tokens: {fault}; choose another name")
        return tokenizer
