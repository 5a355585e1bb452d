"""A split made ready: its examples that can be used, and the rows that the model reads of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumbre.errors import DataError

from .data import Example, Examples, Policy
from .tasks import ExampleError, Row, Task, TaskConfig
from .tasks.base import Purpose, begin

MOST_FAULTS = 5


@dataclass
class Split:
    """Examples and their rows."""

    examples: list[Example] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    example_of: list[int] = field(default_factory=list)
    """The example of each row; of training rows, before the task arranged them."""


@dataclass
class Skips:
    """Records that were left out, by split and fault."""

    first: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, split: str, place: str, fault: str) -> None:
        """Count a record."""
        # What follows the colon is the record's own.
        key = (split, fault.split(": ")[0])
        self.first.setdefault(key, place)
        self.counts[key] = self.counts.get(key, 0) + 1

    def lines(self) -> list[str]:
        """Return a line for each fault."""
        return [
            f"{split}: {count} left out: {fault} (the first is record {self.first[split, fault]})"
            for (split, fault), count in sorted(self.counts.items())
        ]


def usable(
    config: TaskConfig, examples: Examples, policy: Policy, skips: Skips
) -> dict[str, list[tuple[int, Example]]]:
    """Return the records whose fields are what the task needs, each with its number from 1.

    Raises DataError naming the first ones that are not, unless they are to be skipped.
    """
    out: dict[str, list[tuple[int, Example]]] = {}
    faults = []
    for split, records in examples.items():
        out[split] = []
        for number, record in enumerate(records, start=1):
            fault = config.fault(record, "train" if split == "train" else "evaluate")
            if not fault:
                out[split].append((number, record))
            elif policy == "skip":
                skips.add(split, str(number), fault)
            else:
                faults.append(f"{split} record {number}: {fault}")
    _refuse(faults)
    _check(out)
    return out


def encoded(
    task: Task, records: Mapping[str, Sequence[tuple[int, Example]]], policy: Policy, skips: Skips
) -> dict[str, Split]:
    """Return every split's examples with their rows; raises DataError as `usable` does."""
    out: dict[str, Split] = {}
    faults = []
    for split, pairs in records.items():
        purpose: Purpose = "train" if split == "train" else "evaluate"
        one = out[split] = Split()
        for number, record in pairs:
            try:
                rows = task.encode(record, purpose)
            except ExampleError as error:
                if policy == "skip":
                    skips.add(split, str(number), str(error))
                else:
                    faults.append(f"{split} record {number}: {error}: {begin(record)}")
                continue
            one.example_of += [len(one.examples)] * len(rows)
            one.rows += rows
            one.examples.append(record)
        if split == "train":
            one.rows = list(task.arrange(one.rows))
    _refuse(faults)
    _check({split: one.rows for split, one in out.items()})
    return out


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        more = f"\nand {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        lines = "\n".join(faults[:MOST_FAULTS])
        raise DataError(f"{lines}{more}\nmend them, or leave such records out: data.on_bad_example=skip")


def _check(splits: Mapping[str, Sequence[Any]]) -> None:
    empty = [split for split, rows in splits.items() if not rows]
    if empty:
        raise DataError(f"data: no record of the split {empty[0]} can be used")
