"""From the index of a sample to its arrays: order, packing and noise in one pure function."""

import sys
from collections.abc import Callable

import numpy as np

from lumbre import distributed
from lumbre.distributed import Stream

from .data.config import DataConfig
from .data.order import GlobalOrder
from .data.packing import Row, Rows
from .data.shards import PreparedData, SplitName
from .objectives import Objective

Sample = Callable[[int], dict[str, np.ndarray]]


def training_samples(prepared: PreparedData, data: DataConfig, objective: Objective, seed: int) -> Sample:
    """Return the global stream: sample k is row `order(k)` of the training split, noised by (seed, k).

    Raises DataError where the split is smaller than one row.
    """
    rows = _rows(prepared, data, "train")
    order = GlobalOrder(rows.num_rows, seed, rows.num_windows)

    def sample(index: int) -> Row:
        _, row = order(index)
        return dict(objective.sample(rows, row, index))

    return sample


def validation_samples(prepared: PreparedData, data: DataConfig, objective: Objective) -> tuple[Sample, int]:
    """Return the validation split's rows in order, noised the same way every time, and how many there are."""
    rows = _rows(prepared, data, "validation")

    def sample(index: int) -> Row:
        return dict(objective.sample(rows, index, index, Stream.EVALUATION_NOISE))

    return sample, rows.num_rows


def _rows(prepared: PreparedData, data: DataConfig, split: SplitName) -> Rows:
    """Return a split as rows, and tell the user, once for all ranks, what the packing costs."""
    rows = data.packing.build(prepared.split(split), data.seq_length, _pad_id(prepared))
    if distributed.world().is_main:
        shape = f"{rows.num_rows:,} rows of {data.seq_length:,} tokens"
        print(
            f"{split}: {shape}, {rows.waste:.2%} padding ({data.packing.type})", file=sys.stderr, flush=True
        )
    return rows


def _pad_id(prepared: PreparedData) -> int:
    """Return what fills a row: the pad token, or any token, for padding is masked by document_ids."""
    pad_id = prepared.tokenizer().pad_id
    return 0 if pad_id is None else pad_id
