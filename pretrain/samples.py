"""From the index of a sample to its arrays: order, packing and noise in one pure function."""

from collections.abc import Callable

import numpy as np

from lumbre.distributed import Stream

from .data.order import GlobalOrder
from .data.pack import Row
from .data.prepare import DataConfig
from .data.shards import PreparedData
from .objectives import Objective

Sample = Callable[[int], dict[str, np.ndarray]]


def training_samples(prepared: PreparedData, data: DataConfig, objective: Objective, seed: int) -> Sample:
    """Return the global stream: sample k is row `order(k)` of the training split, noised by (seed, k).

    Raises DataError where the split is smaller than one row.
    """
    rows = data.packing.build(prepared.split("train"), data.seq_length, _pad_id(prepared))
    order = GlobalOrder(rows.num_rows, seed)

    def sample(index: int) -> Row:
        _, row = order(index)
        return dict(objective.apply(rows.row(row), index))

    return sample


def validation_samples(prepared: PreparedData, data: DataConfig, objective: Objective) -> tuple[Sample, int]:
    """Return the validation split's rows in order, noised the same way every time, and how many there are."""
    rows = data.packing.build(prepared.split("validation"), data.seq_length, _pad_id(prepared))

    def sample(index: int) -> Row:
        return dict(objective.apply(rows.row(index), index, Stream.EVALUATION_NOISE))

    return sample, rows.num_rows


def _pad_id(prepared: PreparedData) -> int:
    """Return what fills a row: the pad token, or any token, for padding is masked by document_ids."""
    pad_id = prepared.tokenizer().pad_id
    return 0 if pad_id is None else pad_id
