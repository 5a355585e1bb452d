"""Pieces: the part of one document in one row of a step, and what its targets' losses add up to.

Shapes: B rows of T tokens, M targets, P pieces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Places(NamedTuple):
    """Where the pieces with targets are, row after row: known before their losses are."""

    sample_P: np.ndarray
    """Index of the row in the global stream."""
    number_P: np.ndarray
    """Which document of the row, from 1."""
    source_P: np.ndarray
    """Number of the set."""
    targets_P: np.ndarray
    """How many targets."""

    @classmethod
    def of(
        cls, targets_BT: np.ndarray, documents_BT: np.ndarray, sample_B: np.ndarray, source_B: np.ndarray
    ) -> "Places":
        """Return the places of a micro batch. A row's documents lie one after another."""
        documents = documents_BT.ravel()
        begins = np.empty(documents.shape, dtype=bool)
        np.not_equal(documents[1:], documents[:-1], out=begins[1:])
        begins[:: documents_BT.shape[1]] = True
        at_P = begins.nonzero()[0]
        targets_P = np.add.reduceat(targets_BT.ravel(), at_P, dtype=np.int64)
        some_P = targets_P > 0
        at_P = at_P[some_P]
        rows_P = at_P // documents_BT.shape[1]
        numbers_P = documents[at_P].astype(np.int64)
        return cls(sample_B[rows_P], numbers_P, source_B[rows_P], targets_P[some_P])

    @classmethod
    def joined(cls, several: Sequence["Places"]) -> "Places":
        """Return the places of several micro batches as those of one."""
        if len(several) == 1:
            return several[0]
        return cls(*map(np.concatenate, zip(_NONE, *several, strict=True)))


_NONE = Places(*[np.zeros(0, dtype=np.int64)] * 4)


@dataclass(frozen=True)
class Pieces:
    """What a rank's micro batches say of pieces."""

    places: Places
    sums_P3: np.ndarray
    """How many targets, the sum of their losses, and the sum of the squares; in float64."""

    @classmethod
    def of(cls, places: Places, losses_M: np.ndarray) -> "Pieces":
        """Sum up the targets' losses, which lie as the places do; what is not finite is no piece."""
        targets_P = places.targets_P
        sums_P3 = np.empty((len(targets_P), 3))
        if len(targets_P):
            begins_P = np.cumsum(targets_P) - targets_P
            sums_P3[:, 0] = targets_P
            sums_P3[:, 1] = np.add.reduceat(losses_M, begins_P)
            sums_P3[:, 2] = np.add.reduceat(losses_M * losses_M, begins_P)
        if not math.isfinite(sums_P3[:, 2].sum()):
            finite_P = np.isfinite(sums_P3[:, 2])
            places, sums_P3 = Places(*(one[finite_P] for one in places)), sums_P3[finite_P]
        return cls(places, sums_P3)
