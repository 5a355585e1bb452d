"""A row taken apart into its documents, and documents put together to a row.

Shapes: T tokens of a row.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np


def documents(document_ids_T: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Yield each document's number and place; padding is none."""
    bounds = np.flatnonzero(np.diff(document_ids_T, prepend=0, append=0))
    for start, stop in pairwise(bounds.tolist()):
        if number := int(document_ids_T[start]):
            yield number, slice(start, stop)


def filled(parts: Iterable[np.ndarray], length: int, fill: int | bool) -> np.ndarray:
    """Return the parts one after another, the rest of `length` filled."""
    parts = list(parts)
    return np.concatenate([*parts, np.full(length - sum(map(len, parts)), fill)])


def packed(parts: Mapping[int, np.ndarray], length: int, fill: int) -> dict[str, np.ndarray]:
    """Return the row of numbered documents one after another, the rest of `length` filled."""
    sizes = [len(tokens) for tokens in parts.values()]
    numbers = np.repeat([*parts, 0], [*sizes, length - sum(sizes)])
    return {
        "input_ids": filled(parts.values(), length, fill),
        "position_ids": filled(map(np.arange, sizes), length, 0),
        "document_ids": numbers.astype(np.int32),
    }
