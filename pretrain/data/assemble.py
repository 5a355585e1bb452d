"""From tokenized units to shards: hash order, duplicates dropped, splits, bounded shards."""

import math
from pathlib import Path

import numpy as np

from .disk import write_whole
from .journal import INDEX, Journal
from .shards import Shard, SplitName


def order_documents(journal: Journal, num_units: int) -> tuple[np.ndarray, int]:
    """Return the index of the documents that stay, in hash order, and the number of duplicates dropped.

    Of documents with the same text the one with the lowest (source, file, record) stays.
    """
    rows = np.concatenate([np.empty(0, dtype=INDEX), *(journal.index(number) for number in range(num_units))])
    keys = ("record", "file", "source", "split", "order")
    rows = rows[np.lexsort([rows[key] for key in keys])]
    again = np.zeros(len(rows), dtype=bool)
    again[1:] = (rows["order"][1:] == rows["order"][:-1]) & (rows["split"][1:] == rows["split"][:-1])
    return rows[~again], int(again.sum())


def split_documents(rows: np.ndarray, fractions: dict[SplitName, float]) -> dict[SplitName, np.ndarray]:
    """Return the rows of each split by the second half of their hash; what no fraction takes is train.

    A document's split depends on its text alone, but that a fraction above 0 gets at least one document of
    a corpus that has one to spare.
    """
    taken = np.zeros(len(rows), dtype=bool)
    chosen: dict[SplitName, np.ndarray] = {}
    low = 0
    for name, fraction in fractions.items():
        high = low + math.floor(fraction * 2**64)
        mine = (rows["split"] >= low) & (rows["split"] < min(high, 2**64 - 1)) & ~taken
        if fraction and not mine.any() and (~taken).sum() > 1:
            mine[np.flatnonzero(~taken)[np.argmin(rows["split"][~taken])]] = True
        chosen[name] = rows[mine]
        taken |= mine
        low = high
    return {"train": rows[~taken], **chosen}


def write_shards(
    folder: Path, name: SplitName, rows: np.ndarray, journal: Journal, dtype: np.dtype, shard_tokens: int
) -> list[Shard]:
    """Write the documents in order into shards of about `shard_tokens`, one in memory at a time."""
    ends = np.cumsum(rows["length"])
    shards: list[Shard] = []
    first = 0
    while first < len(rows):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + shard_tokens, side="right")))
        mine = rows[first:last]
        offsets = np.concatenate([[0], ends[first:last] - before]).astype("<i8")
        tokens = _gather(mine, offsets, journal, dtype)
        label = f"{name}-{len(shards):05d}"
        shards.append(
            Shard(
                name=label,
                documents=len(mine),
                tokens=len(tokens),
                tokens_sha256=write_whole(folder / f"{label}.tokens", tokens),
                offsets_sha256=write_whole(folder / f"{label}.offsets", offsets),
            )
        )
        first = last
    return shards


def _gather(rows: np.ndarray, offsets: np.ndarray, journal: Journal, dtype: np.dtype) -> np.ndarray:
    """Copy documents out of their units, unit by unit, so that each is read from front to back."""
    out = np.empty(int(offsets[-1]), dtype=dtype)
    order = np.lexsort([rows["start"], rows["unit"]])
    unit, source = -1, out
    for at in order.tolist():
        if rows["unit"][at] != unit:
            unit = int(rows["unit"][at])
            source = journal.tokens(unit, dtype)
        start = int(rows["start"][at])
        out[offsets[at] : offsets[at + 1]] = source[start : start + int(rows["length"][at])]
    return out
