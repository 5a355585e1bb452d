"""Parallel text: files of which line n says the same in each language."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lumbre.errors import DataError, Problem

from .base import Example, Examples, ExamplesConfig
from .files import Files, found, lines_of, missing

Languages = Annotated[dict[str, Files], Field(min_length=2)]
"""Files by language, as many in each."""


class ParallelConfig(ExamplesConfig):
    """Text files aligned by line, by language: `train: {en: train.en, de: train.de}`."""

    type: Literal["parallel"] = "parallel"
    """The data's name."""
    train: Languages
    """Files of the training split by language: a file, a list of files or globs, packed or not."""
    validation: Languages | None = None
    """The same of the validation split; left out, validation_share is drawn from the training split."""
    test: Languages | None = None
    """The same of the test split; left out, there is none."""

    def problems(self) -> Iterator[Problem]:
        """Report files that are not there, and languages that do not go together."""
        yield from super().problems()
        for split, files in self._splits().items():
            absent = [
                one for language, names in files.items() for one in missing(names, f"{split}.{language}")
            ]
            yield from absent
            counts = {language: len(found(names)) for language, names in files.items()}
            if not absent and len(set(counts.values())) > 1:
                told = ", ".join(f"{count} of {language}" for language, count in counts.items())
                yield Problem(
                    split, f"there are files: {told}", "name as many in each language, in one order"
                )
            if files.keys() != self.train.keys():
                fault = f"has {', '.join(files)}, and the training split {', '.join(self.train)}"
                yield Problem(split, fault, "name the same languages in each split")

    @property
    def has_validation(self) -> bool:
        return self.validation is not None

    def read(self) -> Examples:
        """Return records of a text by language; raises DataError where files differ in number of lines."""
        return {
            split: [
                record
                for files in zip(*(found(names) for names in by_language.values()), strict=True)
                for record in _records(dict(zip(by_language, files, strict=True)))
            ]
            for split, by_language in self._splits().items()
        }

    def _splits(self) -> dict[str, dict[str, list[str]]]:
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: files for split, files in named.items() if files is not None}


def _records(files: dict[str, Path]) -> Iterator[Example]:
    for lines in zip_longest(*(lines_of(file) for file in files.values())):
        if None in lines:
            counts = " and ".join(f"{file} {sum(1 for _ in lines_of(file))}" for file in files.values())
            raise DataError(
                f"the files are not aligned: lines of {counts}; line n has to say the same in each"
            )
        yield {language: text.rstrip("\r\n") for language, (_, text) in zip(files, lines, strict=True)}
