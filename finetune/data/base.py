"""What labelled data is: records by split, each split cut to as many as are asked for."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from lumbre.config import Choice
from lumbre.errors import DataError, Problem

Example = Mapping[str, Any]
"""One record of a data set, by field."""

Examples = dict[str, list[Example]]
"""Records by split: train, validation and, where there is one, test."""


Policy = Literal["error", "skip"]
"""What an example that a task cannot use comes to."""


class ExamplesConfig(Choice):
    """Where labelled examples come from."""

    train_limit: PositiveInt | None = None
    """How many training examples are used, spread evenly over the split; left out, all."""
    validation_limit: PositiveInt | None = None
    """How many validation examples are used, spread in the same way."""
    test_limit: PositiveInt | None = None
    """How many test examples are used, spread in the same way."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training split that is the validation split where the data has none.

    A record's own hash says where it goes, so that records which are added later move no other.
    """
    on_bad_example: Policy = "error"
    """Whether an example that the task cannot use ends the run, or is left out and counted."""

    def problems(self) -> Iterator[Problem]:
        """Report a validation split that comes from nowhere, or from two places."""
        if not self.has_validation and self.validation_share is None:
            yield Problem("validation", "there is no validation split", "name one, or set validation_share")
        if self.has_validation and self.validation_share is not None:
            yield Problem("validation_share", "there is a validation split already", "leave one of them out")

    @property
    def has_validation(self) -> bool:
        """Whether `read` gives a validation split."""
        return True

    def build(self) -> Examples:
        """Return every split; raises DataError where a record cannot be read or a split has none."""
        splits = self.read()
        if self.validation_share is not None:
            train, validation = _drawn(splits.pop("train"), self.validation_share)
            splits = {"train": train, "validation": validation, **splits}
        for split, records in splits.items():
            if not records:
                raise DataError(f"data: the split {split} has no example")
        limits = {"train": self.train_limit, "validation": self.validation_limit, "test": self.test_limit}
        return {split: _spread(records, limits[split]) for split, records in splits.items()}

    def read(self) -> Examples:
        """Return every split whole."""
        raise NotImplementedError


def _spread(records: list[Example], limit: int | None) -> list[Example]:
    if limit is None or limit >= len(records):
        return records
    return [records[number * len(records) // limit] for number in range(limit)]


def _drawn(records: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Return the records that stay and those of the share, both in order; equal records go together."""
    parts: tuple[list[Example], list[Example]] = ([], [])
    for record in records:
        text = json.dumps(record, sort_keys=True, ensure_ascii=False, default=str)
        number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
        parts[number < share * 2**64].append(record)
    return parts
