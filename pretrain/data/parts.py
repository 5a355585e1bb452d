"""A rank's part of each row, where ranks share rows (engine.sequence_parallel).

Shapes: T tokens of a row.
"""

from functools import partial

import numpy as np

from lumbre.world import Place

from .loader import IGNORED
from .loader_workers import Arrays, Sample


def parts(sample: Sample, place: Place) -> Sample:
    """Return the samples cut into as many equal parts as there are places, and of these the place's own."""
    return sample if place.count == 1 else partial(_part_of_sample, sample, place)


def part(name: str, array: np.ndarray, place: Place) -> np.ndarray:
    """Return the part of one of a row's arrays [T]; a row that does not divide is filled up with padding.

    A label that a row has but once goes to the first part, which has the row's first token.
    """
    is_label = name.endswith("labels")
    if not array.ndim:
        return np.full_like(array, IGNORED) if is_label and place.index else array
    length = -(-len(array) // place.count)
    own = array[place.index * length : (place.index + 1) * length]
    return np.pad(own, (0, length - len(own)), constant_values=IGNORED if is_label else 0)


def _part_of_sample(sample: Sample, place: Place, index: int) -> Arrays:
    return {name: part(name, array, place) for name, array in sample(index).items()}
