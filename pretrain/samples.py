"""From the index of a sample to its arrays: plan, mixture, order, packing and noise in one pure function."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import DataError

from .data.config import DataConfig
from .data.order import GlobalOrder
from .data.packing import Row, Rows
from .data.plan import Plan
from .data.shards import PreparedData, SplitName
from .objectives import Objective
from .quarantine import Quarantine, without

Sample = Callable[[int], dict[str, np.ndarray]]
Sets = Mapping[str, PreparedData]
"""The prepared sets by name, in the order of the config; a single one has the name ""."""


class GlobalStream:
    """Sample k of a run: a pure function of (data, plan, seed, k, quarantine), for any thread or process.

    A set that several stages take in rows of one length goes on in a later stage where the earlier one left
    it, so that no row comes again before all have come.
    """

    def __init__(
        self,
        sets: Sets,
        data: DataConfig,
        plan: Plan,
        objective: Objective,
        seed: int,
        quarantine: Quarantine | None = None,
    ) -> None:
        """Raises DataError where a set is smaller than one row."""
        self._plan = plan
        self._objective = objective
        self._names = list(sets)
        self._quarantine = quarantine
        self._splits = [prepared.split("train") for prepared in sets.values()]
        self._pads = [_pad_id(prepared) for prepared in sets.values()]
        self._interleaves = [stage.interleave for stage in plan.stages]
        self._rows: dict[tuple[int, int], Rows] = {}
        self._orders: dict[tuple[int, int], GlobalOrder] = {}
        self._before: list[list[int]] = []
        taken: dict[tuple[int, int], int] = {}
        for number, stage in enumerate(plan.stages):
            samples = (
                plan.stages[number + 1].first_sample - stage.first_sample if self._follows(number) else 0
            )
            before = []
            for index, (name, prepared) in enumerate(sets.items()):
                key = (index, stage.seq_length)
                before.append(taken.get(key, 0))
                if not stage.weights[index]:
                    continue
                if key not in self._rows:
                    rows = split_rows(prepared, data, "train", stage.seq_length, name)
                    first = stage.seq_length == plan.stages[0].seq_length
                    stream = name if first else f"{name}/{stage.seq_length}"
                    self._rows[key] = rows
                    self._orders[key] = GlobalOrder(rows.num_rows, seed, rows.num_windows, stream)
                taken[key] = before[-1] + self._interleaves[number].taken(index, samples)
            self._before.append(before)

    def __call__(self, index: int) -> Row:
        """Return a sample's arrays, and in `source` the number of its set."""
        source, rows, row = self._located(index)
        sample = self._objective.sample(rows, row, index)
        if self._quarantine is not None and len(gone := self._quarantine.numbers(source)):
            numbers = np.flatnonzero(np.isin(rows.documents(row), gone)) + 1
            if len(numbers):
                sample = without(sample, numbers, self._pads[source])
        return {**sample, "source": np.array(source, dtype=np.int64)}

    def documents(self, index: int) -> np.ndarray:
        """Return the numbers, in the training split of its set, of a sample's documents 1, 2, ..."""
        _, rows, row = self._located(index)
        return rows.documents(row)

    def place(self, source: int, number: int) -> str:
        """Return where a document of a set's training split is to be found."""
        return self._splits[source].place(number)

    def _located(self, index: int) -> tuple[int, Rows, int]:
        number = self._plan.number_of(index)
        stage = self._plan.stages[number]
        source, nth = self._interleaves[number](index - stage.first_sample)
        key = (source, stage.seq_length)
        _, row = self._orders[key](self._before[number][source] + nth)
        return source, self._rows[key], row

    def steps(self, most: int, data: DataConfig) -> int:
        """Return how many steps of at most `most` there are before a set ends that does not repeat.

        Raises DataError where it ends within the first.
        """
        last, ending = most, ""
        for number, stage in enumerate(self._plan.stages):
            for index, (name, config) in enumerate(data.sets.items()):
                if config.when_exhausted == "repeat" or not stage.weights[index]:
                    continue
                rows = self._rows[index, stage.seq_length].num_rows
                left = max(0, rows - self._before[number][index])
                first_lacking = self._interleaves[number].where(index, left)
                step = stage.after_step + first_lacking // stage.global_batch_size
                within = not self._follows(number) or step < self._plan.stages[number + 1].after_step
                if within and step < last:
                    last, ending = step, f"{called(name)} has {rows:,} rows of {stage.seq_length:,} tokens"
        if not last:
            remedy = "add text, lower train.global_batch_size, or set when_exhausted to repeat"
            raise DataError(f"{ending}, too few for one step; {remedy}")
        if ending and distributed.world().is_main:
            print(f"the data ends after {last:,} steps of {most:,}: {ending}", file=sys.stderr, flush=True)
        return last

    def _follows(self, number: int) -> bool:
        return number + 1 < len(self._plan.stages)


@dataclass(frozen=True)
class ValidationSet:
    """The rows of one set that an evaluation reads."""

    name: str
    weight: float
    """Its share of the evaluation's loss."""
    sample: Sample
    num_rows: int


def validation_sets(
    sets: Sets, data: DataConfig, plan: Plan, objective: Objective, most: int
) -> list[ValidationSet]:
    """Return the validation splits in order, in rows as long as the last stage's, noised the same every time.

    Each has at most `most` rows. Their weights are those of the last stage; what it leaves out has 0.
    """
    last = plan.stages[-1]
    found = []
    for index, (name, prepared) in enumerate(sets.items()):
        if not any(stage.weights[index] for stage in plan.stages):
            continue
        rows = split_rows(prepared, data, "validation", last.seq_length, name)
        number = np.array(index, dtype=np.int64)

        def sample(row: int, rows: Rows = rows, number: np.ndarray = number) -> Row:
            return {**objective.sample(rows, row, row, Stream.EVALUATION_NOISE), "source": number}

        share = float(last.interleave.shares[index])
        found.append(ValidationSet(name, share, sample, min(rows.num_rows, most)))
    return found


def split_rows(
    prepared: PreparedData, data: DataConfig, split: SplitName, seq_length: int, name: str = ""
) -> Rows:
    """Return a split as rows, and tell the user, once for all ranks, what the packing costs."""
    rows = data.packing.build(prepared.split(split), seq_length, _pad_id(prepared))
    if distributed.world().is_main:
        title = f"{name} {split}" if name else split
        shape = f"{rows.num_rows:,} rows of {seq_length:,} tokens"
        print(
            f"{title}: {shape}, {rows.waste:.2%} padding ({data.packing.type})", file=sys.stderr, flush=True
        )
    return rows


def called(name: str) -> str:
    """Return how a set is called in a message."""
    return f"set {name!r}" if name else "the corpus"


def _pad_id(prepared: PreparedData) -> int:
    """Return what fills a row: the pad token, or any token, for padding is masked by document_ids."""
    pad_id = prepared.tokenizer().pad_id
    return 0 if pad_id is None else pad_id
