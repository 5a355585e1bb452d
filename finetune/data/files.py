"""The user's own files of examples: one, several or a glob for each split, packed or not."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from lumbre.errors import DataError, Problem
from lumbre.packed import DAMAGE, open_unpacked

from .base import Example, Examples, ExamplesConfig


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("should be a file, or a list of files and globs")
    return value


Files = Annotated[list[str], BeforeValidator(_listed)]
"""A file, a list of files, or globs (`**` for any depth) in sorted order."""


class FilesConfig(ExamplesConfig):
    """What the formats share that a user's own files have."""

    train: Files
    """File of the training split, or a list of files or globs; packed files (.gz, .zst, .xz, .bz2) too."""
    validation: Files | None = None
    """The same of the validation split; left out, validation_share is drawn from the training split."""
    test: Files | None = None
    """The same of the test split; left out, there is none."""

    def problems(self) -> Iterator[Problem]:
        """Report files that are not there."""
        yield from super().problems()
        for split, names in self._names().items():
            yield from missing(names, split)

    @property
    def has_validation(self) -> bool:
        return self.validation is not None

    def read(self) -> Examples:
        """Return the records of each split's files, one file after the other; raises DataError."""
        return {
            split: [record for file in found(names) for record in self.records(file)]
            for split, names in self._names().items()
        }

    def begins(self) -> Iterator[tuple[str, Path, Example]]:
        """Yield (split, file, record) of the first record of each split; raises DataError."""
        for split, names in self._names().items():
            for file in found(names)[:1]:
                for record in islice(self.records(file), 1):
                    yield split, file, record

    @abstractmethod
    def records(self, file: Path) -> Iterator[Example]:
        """Yield the records of a file; raises DataError that names it, and the line."""

    def _names(self) -> dict[str, list[str]]:
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: names for split, names in named.items() if names is not None}


def found(names: Sequence[str]) -> list[Path]:
    """Return the files that names and globs stand for."""
    return [file for name in names for file in _expanded(name)]


def missing(names: Sequence[str], key: str) -> Iterator[Problem]:
    """Yield a problem for each name that stands for no file."""
    for index, name in enumerate(names):
        files = _expanded(name)
        fault = "" if files else "matches no file"
        for file in files:
            if not file.is_file():
                fault = "is a folder: name the files" if file.is_dir() else "does not exist"
        if fault:
            place = key if len(names) == 1 else f"{key}.{index}"
            yield Problem(place, f"{name} {fault}", f"it is looked for from {Path.cwd()}")


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, text with its end) of the lines of a file in UTF-8; raises DataError."""
    with explained(file), open_unpacked(file) as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                fault = f"byte {error.start + 1} of the line is {raw[error.start]:#04x}"
                raise DataError(f"{file}:{number}: is not UTF-8: {fault}; save the file as UTF-8") from error
            yield number, line.removeprefix("\ufeff") if number == 1 else line


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Turn a file that cannot be read, or that breaks off, into a DataError."""
    try:
        yield
    except DAMAGE as error:
        why = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise DataError(f"{file}: cannot be read: {why}; mend it or make it anew") from error


def _expanded(name: str) -> list[Path]:
    path = Path(name)
    if path.exists() or not any(letter in name for letter in "*?["):
        return [path]
    anchor = Path(path.anchor)
    return sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file())
