"""The quarantine of a run: documents that no sample gives any more, in law 1's list.

A row that holds one gives padding in its place. The order of rows, their packing, and the noise of all else
stay as they are, so that nothing but the list is needed to know sample k.

Shapes: T tokens of a row.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, ValidationError

from lumbre import distributed
from lumbre.config import Config
from lumbre.errors import DataError
from lumbre.files import write_text

from .data.shards import PreparedData
from .objectives.base import Row

FILE = "quarantine.json"
IGNORED = -100
SHARE, FEWEST = 0.001, 16
"""The part of a set's documents that is quarantined at most, where that is more than a few."""


class Found(Config):
    """Why a document is in quarantine."""

    step: NonNegativeInt
    """Whose batch held it."""
    loss: float
    """Per target, in nats, before that step."""
    usual: float
    """The loss per target of the set's documents at that time."""
    place: str = ""
    """Its shard, and its number in that."""


class QuarantinedSet(Config):
    """The documents of one prepared set."""

    fingerprint: str
    """Of the prepared folder: numbers mean nothing in another."""
    documents: dict[NonNegativeInt, Found]
    """By their number in the set's training split."""


class QuarantineFile(Config):
    """quarantine.json; a document may be added by hand between two parts of a run."""

    sets: dict[str, QuarantinedSet]
    """By name; a single corpus has the name ""."""


@dataclass(frozen=True)
class Suspect:
    """A document that stands out."""

    source: int
    """The number of its set."""
    number: int
    """Its own in the set's training split."""
    found: Found


class Quarantine:
    """The list of a run, in its folder and in its checkpoints; it only grows."""

    def __init__(self, file: Path, sets: Mapping[str, PreparedData]) -> None:
        """Read the list of an earlier part. Raises DataError where it is not of these sets."""
        self._file = file
        self._names = list(sets)
        self._sets = {
            name: QuarantinedSet(fingerprint=prepared.fingerprint, documents={})
            for name, prepared in sets.items()
        }
        self._most = [
            max(FEWEST, int(SHARE * prepared.split("train").num_documents)) for prepared in sets.values()
        ]
        self._numbers: list[np.ndarray] = []
        self._index()
        if file.is_file():
            self._merge(file.read_bytes(), str(file))

    def numbers(self, source: int) -> np.ndarray:
        """Return the sorted numbers of a set's documents that are in quarantine."""
        return self._numbers[source]

    def has_room(self, source: int) -> bool:
        """Whether a set may lose another document: many are no accident but what the set is like."""
        return len(self._numbers[source]) < self._most[source]

    def add(self, suspects: list[Suspect]) -> None:
        """Put documents in; the main rank writes the file. Every rank calls, with the same."""
        for one in suspects:
            self._sets[self._names[one.source]].documents.setdefault(one.number, one.found)
        self._index()
        if distributed.world().is_main:
            write_text(self._file, QuarantineFile(sets=self._sets).model_dump_json(indent=1) + "\n")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint carries of it: the whole list."""
        return {name: one.model_dump(mode="json") for name, one in self._sets.items() if one.documents}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's list, beside what the file has; sets that are no more are left out."""
        known = {name: one for name, one in state.items() if name in self._sets}
        self._merge(json.dumps({"sets": known}).encode(), "the checkpoint's quarantine")

    def _merge(self, raw: bytes, place: str) -> None:
        try:
            read = QuarantineFile.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(f"{place}: {where}: {first['msg']}; mend it, or move it away") from error
        for name, one in read.sets.items():
            own = self._sets.get(name)
            if own is None or own.fingerprint != one.fingerprint:
                fault = f"set {name!r} is not this run's" if own is None else f"set {name!r} is of other data"
                raise DataError(f"{place}: {fault}; move it away, or set another name")
            own.documents.update(one.documents)
        self._index()

    def _index(self) -> None:
        self._numbers = [np.array(sorted(self._sets[name].documents), dtype=np.int64) for name in self._names]


def without(row: Row, numbers: np.ndarray, pad_id: int) -> Row:
    """Return a sample with the documents `numbers` (1, 2, ... of the row) as padding, without targets."""
    out = dict(row)
    gone_T = np.zeros(0, dtype=bool)
    for stack in ("", "decoder_"):
        if f"{stack}document_ids" not in row:
            continue
        gone_T = np.isin(row[f"{stack}document_ids"], numbers)
        for name, fill in ("input_ids", pad_id), ("position_ids", 0), ("document_ids", 0):
            out[f"{stack}{name}"] = np.where(gone_T, fill, row[f"{stack}{name}"]).astype(
                row[f"{stack}{name}"].dtype
            )
        if not stack:
            aligned = {"prefix_mask": False, "token_type_ids": 0, "original_labels": IGNORED}
            out |= {name: _filled(row[name], gone_T, fill) for name, fill in aligned.items() if name in row}
    # Of the last stack, which predicts.
    out["labels"] = _filled(row["labels"], gone_T, IGNORED)
    if "pair_labels" in row:
        out["pair_labels"] = np.full_like(row["pair_labels"], IGNORED)
    return out


def _filled(array_T: np.ndarray, gone_T: np.ndarray, fill: int) -> np.ndarray:
    return np.where(gone_T, fill, array_T).astype(array_T.dtype)
