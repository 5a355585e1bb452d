"""From tokenized units to shards: the plan of all shards first, then one task a shard.

The plan lies in a folder: for each shard `NAME.places`, where the tokens of its documents are, and at the end
`plan.json`. A shard that is written leaves `NAME.json` there, so that what was killed goes on with the next.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..shards import Shard, SplitName
from .disk import Hashed, whole_file, write_whole
from .journal import Journal
from .splits import Splits
from .workers import Report

SHARD_DOCUMENTS = 1 << 22
GATHERED_TOKENS = 1 << 22
"""Tokens held in memory while a shard is written, or one document's."""
PLACE = np.dtype([("unit", "<i4"), ("piece", "<i4"), ("start", "<i8"), ("length", "<i8")])
READ_PLACES = 1 << 16
PLAN = "plan.json"


@dataclass
class Plan:
    """The shards of each split, and the number of exact duplicates that were left out."""

    shards: dict[SplitName, dict[str, int]]
    """The tokens of each shard by its name."""
    duplicates: int
    left_out: dict[str, dict[str, Any]]
    """What else was left out on the way, as `Skip`s by reason."""

    @classmethod
    def load(cls, folder: Path) -> "Plan | None":
        """Return the plan that lies in a folder, if it is whole."""
        file = folder / PLAN
        return cls(**json.loads(file.read_text())) if file.is_file() else None

    def save(self, folder: Path) -> None:
        write_whole(folder / PLAN, json.dumps(vars(self)).encode())


def plan_shards(
    folder: Path, rows: Iterable[np.ndarray], splits: Splits, shard_tokens: int
) -> dict[SplitName, dict[str, int]]:
    """Cut the documents, which come in order, into shards of at most so many tokens or one document."""
    with ExitStack() as stack:
        cutters: dict[SplitName, _Cutter] = {}
        for some in rows:
            for name, mine in splits.of(some).items():
                if name not in cutters:
                    cutters[name] = stack.enter_context(_Cutter(folder, name, shard_tokens))
                cutters[name].add(mine)
    return {name: cutter.shards for name, cutter in cutters.items()}


@dataclass
class _Cutter:
    """Writes the places of the documents of one split, a file a shard."""

    folder: Path
    split: SplitName
    shard_tokens: int
    shards: dict[str, int] = field(default_factory=dict)
    _name: str = ""
    _file: BinaryIO | None = None
    _documents: int = 0

    def __enter__(self) -> "_Cutter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, rows: np.ndarray) -> None:
        ends = np.cumsum(rows["length"])
        first = 0
        while first < len(rows):
            before = int(ends[first - 1]) if first else 0
            room = self.shard_tokens - self.shards.get(self._name, 0)
            fitting = int(np.searchsorted(ends, before + max(room, 0), side="right"))
            last = min(fitting, first + SHARD_DOCUMENTS - self._documents)
            if last == first and not self._documents:
                last += 1
            if last == first or self._file is None:
                self._begin()
                continue
            self._write(rows[first:last], int(ends[last - 1]) - before)
            first = last

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
        self._name = f"{self.split}-{len(self.shards):05d}"
        self.shards[self._name] = self._documents = 0
        self._file = (self.folder / f"{self._name}.places").open("wb")

    def _write(self, rows: np.ndarray, tokens: int) -> None:
        assert self._file is not None
        places = np.empty(len(rows), dtype=PLACE)
        for key in PLACE.names or ():
            places[key] = rows[key]
        self._file.write(places.view(np.uint8).data)
        self.shards[self._name] += tokens
        self._documents += len(rows)


def shard_record(folder: Path, name: str) -> Shard | None:
    """Return what the plan's folder says of a shard that is written."""
    file = folder / f"{name}.json"
    return Shard.model_validate_json(file.read_text()) if file.is_file() else None


@dataclass(frozen=True)
class WriteShard:
    """The task of writing one shard; memory does not grow with its size.

    What has been gathered is hashed and written while what follows is gathered.
    """

    plan: Path
    name: str
    journal: Path
    out: Path
    dtype: np.dtype

    def __call__(self, report: Report) -> None:
        """Copy the tokens of the documents out of their units; `report` is told the bytes written."""
        documents = total = 0
        with (
            whole_file(self.out / f"{self.name}.tokens") as tokens_file,
            whole_file(self.out / f"{self.name}.offsets") as offsets_file,
            ThreadPoolExecutor(1) as writer,
        ):
            tokens, offsets = Hashed(tokens_file), Hashed(offsets_file)
            offsets.write(np.zeros(1, dtype="<i8"))
            writing = writer.submit(tokens.write, b"")
            for places in self._places():
                ends = np.cumsum(places["length"])
                gathered = self._gather(places, ends)
                writing.result()
                writing = writer.submit(tokens.write, gathered)
                offsets.write((total + ends).astype("<i8"))
                documents += len(places)
                total += int(ends[-1])
                report(total * self.dtype.itemsize)
            writing.result()
        shard = Shard(
            name=self.name,
            documents=documents,
            tokens=total,
            tokens_sha256=tokens.sha256,
            offsets_sha256=offsets.sha256,
        )
        write_whole(self.plan / f"{self.name}.json", shard.model_dump_json().encode())

    def _places(self) -> Iterator[np.ndarray]:
        """Yield the places of the documents, as many as are held at once."""
        with (self.plan / f"{self.name}.places").open("rb") as file:
            while raw := file.read(READ_PLACES * PLACE.itemsize):
                places = np.frombuffer(raw, dtype=PLACE)
                groups = np.cumsum(places["length"]) // GATHERED_TOKENS
                yield from np.split(places, np.flatnonzero(np.diff(groups)) + 1)

    def _gather(self, places: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Copy documents, piece by piece, so that each is read from front to back."""
        journal = Journal(self.journal)
        out = np.empty(int(ends[-1]), dtype=self.dtype)
        target = out.view(np.uint8).data
        width = self.dtype.itemsize
        starts = ((ends - places["length"]) * width).tolist()
        reads = (places["start"] * width).tolist()
        lengths = (places["length"] * width).tolist()
        pieces = list(zip(places["unit"].tolist(), places["piece"].tolist(), strict=True))
        here, handle = None, -1
        try:
            for at in np.lexsort([places["start"], places["piece"], places["unit"]]).tolist():
                if pieces[at] != here:
                    if here is not None:
                        os.close(handle)
                    here = None
                    handle = os.open(journal.tokens(*pieces[at]), os.O_RDONLY)
                    here = pieces[at]
                _read(handle, target[starts[at] : starts[at] + lengths[at]], reads[at])
        finally:
            if here is not None:
                os.close(handle)
        return out


def _read(handle: int, target: memoryview, start: int) -> None:
    """Fill `target` with the bytes of a file from `start` on."""
    while target:
        count = os.preadv(handle, [target], start)
        assert count, "a tokenized unit is shorter than its index says"
        target, start = target[count:], start + count
