"""The order of the documents: by hash, without exact duplicates, through files that are sorted one by one.

The rows of all units are dealt to bucket files by the top bits of their hash, as many as it takes for one to
be small. So memory does not grow with the corpus.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .journal import INDEX

BUCKET_DOCUMENTS = 1 << 16
DEALT_DOCUMENTS = 1 << 17
"""Rows that are held before they are dealt."""
MOST_BUCKETS = 1 << 16


class Buckets:
    """A folder of files of rows, each a range of hashes."""

    def __init__(self, folder: Path, documents: int) -> None:
        """Begin anew for about so many documents."""
        self._folder = folder
        count = max(1, min(math.ceil(documents / BUCKET_DOCUMENTS), MOST_BUCKETS))
        self._bits = (count - 1).bit_length()
        self.duplicates = 0
        self._held: list[np.ndarray] = []
        self._num_held = 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def deal(self, rows: np.ndarray) -> None:
        """Put rows of the index where they belong, in any order."""
        self._held.append(rows)
        self._num_held += len(rows)
        if self._num_held >= DEALT_DOCUMENTS:
            self._flush()

    def sort(self) -> Iterator[np.ndarray]:
        """Put each bucket in hash order, and yield it; of rows with the same text one remains.

        The one with the lowest (source, file, record) stays.
        """
        self._flush()
        for file in self._files():
            rows = self._distinct(np.fromfile(file, dtype=INDEX))
            file.write_bytes(rows.tobytes())
            yield rows

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the rows bucket by bucket, in hash order once they are sorted."""
        for file in self._files():
            yield np.fromfile(file, dtype=INDEX)

    def clear(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder)

    def _files(self) -> Iterator[Path]:
        files = (self._folder / str(bucket) for bucket in range(1 << self._bits))
        return (file for file in files if file.is_file())

    def _flush(self) -> None:
        if not self._num_held:
            return
        # Dropped here already, so that a text that stands in the corpus a million times fills no bucket.
        rows = self._distinct(np.concatenate(self._held))
        self._held, self._num_held = [], 0
        numbers = (
            rows["order"] >> np.uint64(64 - self._bits) if self._bits else np.zeros(len(rows), np.uint64)
        )
        present, firsts = np.unique(numbers, return_index=True)
        for number, mine in zip(present.tolist(), np.split(rows, firsts[1:]), strict=True):
            with (self._folder / str(number)).open("ab") as file:
                file.write(mine.view(np.uint8).data)

    def _distinct(self, rows: np.ndarray) -> np.ndarray:
        keys = ("record", "file", "source", "split", "order")
        rows = rows[np.lexsort([rows[key] for key in keys])]
        again = np.zeros(len(rows), dtype=bool)
        again[1:] = (rows["order"][1:] == rows["order"][:-1]) & (rows["split"][1:] == rows["split"][:-1])
        self.duplicates += int(again.sum())
        return rows[~again]
