"""Units of work and how their documents are read: what a worker process needs to know of a corpus."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..skips import EMPTY, Skips
from ..sources import BadDocument, Document, Part, SourceConfig
from .filters import FilterConfig


@dataclass(frozen=True)
class Unit:
    """What is read and tokenized at once: ranges of files of one source, some megabytes together."""

    source: int
    parts: tuple[Part, ...]
    paths: tuple[Path, ...]
    """The file of each part."""
    size: int
    """Bytes of input."""


@dataclass(frozen=True)
class Reader:
    """Reads units of some sources and leaves out what the filters drop."""

    sources: tuple[SourceConfig, ...]
    filters: tuple[FilterConfig, ...] = ()

    def items(self, unit: Unit) -> Iterator[Document | BadDocument]:
        """Yield everything in a unit, always the same and in the same order."""
        for part, path in zip(unit.parts, unit.paths, strict=True):
            yield from self.sources[unit.source].documents_in(path, part)

    def kept(self, unit: Unit, items: Iterable[Document | BadDocument], skips: Skips) -> Iterator[Document]:
        """Yield the documents to use among a unit's items; the others go to `skips`."""
        for one in items:
            if isinstance(one, BadDocument):
                skips.add(one.reason, partial(self.place, unit, one), one.hint)
            elif not one.text or one.text.isspace():
                skips.add(EMPTY, partial(self.place, unit, one))
            else:
                for chosen in self.filters:
                    if reason := chosen.fault(one.text):
                        skips.drop(reason, partial(self.place, unit, one))
                        break
                else:
                    yield one

    def place(self, unit: Unit, one: Document | BadDocument) -> str:
        """Return where an item of a unit stands, as a person looks for it."""
        path = next(path for part, path in zip(unit.parts, unit.paths, strict=True) if part.file == one.file)
        return self.place_in(unit.source, path, one.record)

    def place_in(self, source: int, path: Path, record: int | None) -> str:
        """Return where a record of a file stands, as a person looks for it."""
        if record is None:
            return str(path)
        try:
            return self.sources[source].place(path, record)
        except OSError:
            return str(path)
