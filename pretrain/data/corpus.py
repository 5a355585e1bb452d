"""The corpus of a preparation: all sources' files, cut into units of work and sampled for the tokenizer."""

import hashlib
import json
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lumbre.config import Config
from lumbre.errors import DataError

from .sources import BadDocument, Document, Part, SourceConfig

FILES_PER_UNIT = 1024
SAMPLE_WINDOW = 1 << 16
TO_THE_END = sys.maxsize
"""The end of a part that is a whole file, whose text may be longer than the file on the disk."""


@dataclass(frozen=True)
class Unit:
    """What is read and tokenized at once: ranges of files of one source, some megabytes together."""

    source: int
    parts: tuple[Part, ...]
    size: int
    """Bytes of input."""


class Skip(Config):
    """How many documents had a fault, and where the first of them stands."""

    count: int
    first: str


@dataclass
class Skips:
    """What happens to a document that cannot be used: it ends the work or is counted by reason."""

    on_bad_document: Literal["error", "skip"]
    by_reason: dict[str, Skip] = field(default_factory=dict)

    def add(self, reason: str, place: str, hint: str = "") -> None:
        """Count a document with a fault.

        Raises DataError where the config asks for it; an empty document is never an error.
        """
        if self.on_bad_document == "error" and reason != "empty":
            remedy = f"{hint or 'mend or remove it'}, or set data.on_bad_document to skip"
            raise DataError(f"{place}: {reason}; {remedy}")
        before = self.by_reason.get(reason, Skip(count=0, first=place))
        self.by_reason[reason] = Skip(count=before.count + 1, first=before.first)

    def merge(self, others: dict[str, Skip]) -> None:
        """Add counts made elsewhere, which come later in the order of the corpus."""
        for reason, other in others.items():
            before = self.by_reason.get(reason, Skip(count=0, first=other.first))
            self.by_reason[reason] = Skip(count=before.count + other.count, first=before.first)


class Corpus:
    """The sources' files with their sizes, listed once."""

    def __init__(self, sources: Sequence[SourceConfig]) -> None:
        self._sources = sources
        self._files = [source.files() for source in sources]
        self._stamps = [[_stamp(path) for path in files] for files in self._files]

    @property
    def total_bytes(self) -> int:
        """Bytes of input, as they lie on the disk."""
        return sum(size for stamps in self._stamps for size, _ in stamps)

    @property
    def num_files(self) -> int:
        return sum(map(len, self._files))

    def fingerprint(self) -> str:
        """sha256 of the list of files with their sizes and times of change."""
        listing = [
            [[str(path), *stamp] for path, stamp in zip(files, stamps, strict=True)]
            for files, stamps in zip(self._files, self._stamps, strict=True)
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    def units(self, unit_bytes: int) -> list[Unit]:
        """Cut the corpus into units: small files together, large ones in ranges where that can be."""
        units: list[Unit] = []
        for index, source in enumerate(self._sources):
            group: list[Part] = []
            weight = 0
            for file, (size, _) in enumerate(self._stamps[index]):
                if size > unit_bytes and source.can_split(self._files[index][file]):
                    units += [
                        Unit(index, (Part(file, start, start + unit_bytes),), min(unit_bytes, size - start))
                        for start in range(0, size, unit_bytes)
                    ]
                    continue
                group.append(Part(file, 0, TO_THE_END))
                weight += size
                if weight >= unit_bytes or len(group) == FILES_PER_UNIT:
                    units.append(Unit(index, tuple(group), weight))
                    group, weight = [], 0
            if group:
                units.append(Unit(index, tuple(group), weight))
        return units

    def read(self, unit: Unit, skips: Skips) -> Iterator[Document]:
        """Yield a unit's documents; empty and bad ones go to `skips`."""
        for part in unit.parts:
            for one in self._sources[unit.source].documents_in(self._files[unit.source], part):
                if isinstance(one, Document) and one.text.strip():
                    yield one
                else:
                    fault = (
                        one if isinstance(one, BadDocument) else BadDocument("empty", one.file, one.record)
                    )
                    skips.add(fault.reason, self.place(unit.source, fault), fault.hint)

    def sample(self, num_bytes: int, skips: Skips) -> Iterator[str]:
        """Yield about `num_bytes` of text in windows spread evenly over the corpus; all of it if it is small.

        What is sampled depends on the files alone. A file that has to be read from its start gives as much
        from there as its windows hold.
        """
        left = num_bytes
        for unit in self._sampled(num_bytes):
            quota = min(unit.size, left)
            documents = self.read(unit, skips)
            while quota > 0 and (document := next(documents, None)) is not None:
                yield document.text[:quota]
                quota -= len(document.text)
                left -= len(document.text)

    def _sampled(self, num_bytes: int) -> Iterator[Unit]:
        """Yield the parts to sample, each with the number of bytes to take."""
        share = num_bytes // len(self._sources)
        num_bytes -= share * sum(not source.has_size for source in self._sources)
        total = self.total_bytes
        windows = max(1, num_bytes // SAMPLE_WINDOW)
        starts = [index * total // windows for index in range(windows)]
        base = 0
        for index, source in enumerate(self._sources):
            for file, (size, _) in enumerate(self._stamps[index]):
                first = bisect_left(starts, base - SAMPLE_WINDOW + 1)
                inside = starts[first : bisect_left(starts, base + size)]
                parts = [
                    Part(file, max(start - base, 0), min(start + SAMPLE_WINDOW - base, size))
                    for start in inside
                ]
                path = self._files[index][file]
                whole = Part(file, 0, TO_THE_END)
                if not source.has_size:
                    yield Unit(index, (whole,), share)
                elif total <= num_bytes:
                    yield Unit(index, (whole,), num_bytes)
                else:
                    taken: Counter[Part] = Counter()
                    for part in parts:
                        readable = source.around(path, part) if source.can_split(path) else whole
                        taken[readable] += part.end - part.start
                    yield from (Unit(index, (part,), quota) for part, quota in taken.items())
                base += size

    def place(self, source: int, one: Document | BadDocument) -> str:
        """Return where a document stands, as a person looks for it."""
        path = self._files[source][one.file]
        if one.record is None:
            return str(path)
        try:
            return self._sources[source].place(path, one.record)
        except OSError:
            return str(path)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
