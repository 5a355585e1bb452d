"""The corpus of a preparation: all sources' files, cut into units of work and sampled for the tokenizer."""

import hashlib
import json
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..skips import Skips
from ..sources import Document, Part, SourceConfig
from .filters import FilterConfig
from .reader import Reader, Unit

FILES_PER_UNIT = 1024
SAMPLE_WINDOW = 1 << 16
TO_THE_END = sys.maxsize
"""The end of a part that is a whole file, whose text may be longer than the file on the disk."""


class Corpus:
    """The sources' files with their sizes, listed once."""

    def __init__(self, sources: Sequence[SourceConfig], filters: Sequence[FilterConfig] = ()) -> None:
        self.reader = Reader(tuple(sources), tuple(filters))
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
                        self._unit(
                            index, [Part(file, start, start + unit_bytes)], min(unit_bytes, size - start)
                        )
                        for start in range(0, size, unit_bytes)
                    ]
                    continue
                group.append(Part(file, 0, TO_THE_END))
                weight += size
                if weight >= unit_bytes or len(group) == FILES_PER_UNIT:
                    units.append(self._unit(index, group, weight))
                    group, weight = [], 0
            if group:
                units.append(self._unit(index, group, weight))
        return units

    def _unit(self, source: int, parts: Sequence[Part], size: int) -> Unit:
        return Unit(source, tuple(parts), tuple(self._files[source][part.file] for part in parts), size)

    def read(self, unit: Unit, skips: Skips) -> Iterator[Document]:
        """Yield a unit's documents; empty, bad and unwanted ones go to `skips`."""
        yield from self.reader.kept(unit, self.reader.items(unit), skips)

    def place(self, source: int, file: int, record: int) -> str:
        """Return where a document stands, as a person looks for it."""
        return self.reader.place_in(source, self._files[source][file], record)

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
                    yield self._unit(index, [whole], share)
                elif total <= num_bytes:
                    yield self._unit(index, [whole], num_bytes)
                else:
                    taken: Counter[Part] = Counter()
                    for part in parts:
                        readable = source.around(path, part) if source.can_split(path) else whole
                        taken[readable] += part.end - part.start
                    yield from (self._unit(index, [part], quota) for part, quota in taken.items())
                base += size


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
