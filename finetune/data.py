"""Labelled examples: where they come from, by split."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from lumbre import stdlib
from lumbre.config import Choice
from lumbre.errors import DataError, Problem

from .tasks import Example

Examples = dict[str, list[Example]]
"""Records by split: train, validation, test."""


class ExamplesConfig(Choice):
    """Where labelled examples come from."""

    train_limit: PositiveInt | None = None
    """How many training examples are used, spread evenly over the split; left out, all."""

    def build(self) -> Examples:
        """Return every split; raises DataError where a record cannot be read."""
        splits = self.read()
        if self.train_limit is not None and self.train_limit < len(splits["train"]):
            whole = splits["train"]
            spread = [number * len(whole) // self.train_limit for number in range(self.train_limit)]
            splits["train"] = [whole[at] for at in spread]
        empty = [split for split, records in splits.items() if not records]
        if empty:
            raise DataError(f"data: the split {empty[0]} has no example")
        return splits

    def read(self) -> Examples:
        """Return every split whole."""
        raise NotImplementedError


class StdlibFunctionsConfig(ExamplesConfig):
    """Functions of the installed standard library, labelled with their package and split by module."""

    type: Literal["stdlib_functions"] = "stdlib_functions"
    """The data's name."""

    def read(self) -> Examples:
        """Return records with `text`, `label` and `module`."""
        return {
            split: [{"text": one.text, "label": one.label, "module": one.module} for one in functions]
            for split, functions in stdlib.labelled_functions().items()
        }


class JsonlConfig(ExamplesConfig):
    """JSON lines, a file a split."""

    type: Literal["jsonl"] = "jsonl"
    """The data's name."""
    train: str
    """File of the training split."""
    validation: str
    """File of the validation split."""
    test: str
    """File of the test split."""

    def problems(self) -> Iterator[Problem]:
        """Report files that are not there."""
        for split, file in self._files().items():
            if not file.is_file():
                yield Problem(split, f"{file} does not exist", f"it is looked for from {Path.cwd()}")

    def read(self) -> Examples:
        """Return the records of each file; raises DataError naming the line that is no JSON object."""
        return {split: list(_records(file)) for split, file in self._files().items()}

    def _files(self) -> dict[str, Path]:
        return {"train": Path(self.train), "validation": Path(self.validation), "test": Path(self.test)}


def _records(file: Path) -> Iterator[Example]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}:{number}: is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise DataError(f"{file}:{number}: a JSON object is expected, got a {type(record).__name__}")
            yield record
