"""A data set of the Hugging Face hub, streamed in its own order (Lhoest et al., 2021, arXiv:2109.02846)."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from lumbre.errors import DataError, Problem
from lumbre.hub_cache import dataset_problems

from .base import BadDocument, Document, FaultError, Part, SourceConfig, text_of


class HubConfig(SourceConfig):
    """A data set of the Hugging Face hub, read over the network."""

    type: Literal["hub"] = "hub"
    name: str
    """The data set: OWNER/NAME."""
    subset: str | None = None
    """Which of the data set's configurations."""
    split: str = "train"
    """Which of its splits."""
    revision: str | None = None
    """A commit, tag or branch; state a commit to get the same documents on another day."""
    text_field: str = "text"
    """The column of the text."""
    max_documents: PositiveInt | None = None
    """How many documents are read; by default all."""

    def missing(self) -> Iterator[Problem]:
        yield from dataset_problems(self.name, "name")

    def files(self) -> list[Path]:
        return [Path(f"hub:{self.name}")]

    @property
    def has_size(self) -> bool:
        return False

    def check(self, path: Path) -> None:
        """What is wrong shows when the stream is opened."""

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        for record, row in enumerate(islice(self._stream(), self.max_documents)):
            try:
                yield Document(text_of(row, self.text_field), part.file, record)
            except FaultError as fault:
                yield fault.at(part.file, record)

    def _stream(self) -> Iterator[Any]:
        """Yield rows. Raises DataError: a stream that breaks off is never a shorter corpus."""
        from datasets import load_dataset

        try:
            yield from load_dataset(
                self.name, self.subset, split=self.split, revision=self.revision, streaming=True
            )
        except Exception as error:  # each file format and network library raises its own
            what = str(error).strip().split("\n")[0] or type(error).__name__
            remedy = "check data.sources (name, subset, split, revision) and the network, and run again"
            raise DataError(
                f"hub:{self.name}: {what}; {remedy}, or download it and name its files"
            ) from error
