"""What is left out of a corpus and why: faults, which may end the work, and what filters drop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lumbre.config import Config
from lumbre.errors import DataError

EMPTY = "empty"


class Skip(Config):
    """How many documents were left out for one reason, and where the first of them stands."""

    count: int
    first: str


@dataclass
class Skips:
    """What happens to a document that is not used: it ends the work or is counted by reason."""

    on_bad_document: Literal["error", "skip"]
    by_reason: dict[str, Skip] = field(default_factory=dict)

    def add(self, reason: str, place: Callable[[], str], hint: str = "") -> None:
        """Count a document with a fault; its place is asked for only if it is the first or ends the work.

        Raises DataError where the config asks for it; an empty document is never an error.
        """
        if self.on_bad_document == "error" and reason != EMPTY:
            remedy = f"{hint or 'mend or remove it'}, or set data.on_bad_document to skip"
            raise DataError(f"{place()}: {reason}; {remedy}")
        self.drop(reason, place)

    def drop(self, reason: str, place: Callable[[], str]) -> None:
        """Count a document that has no fault and is not wanted."""
        before = self.by_reason.get(reason)
        if before is None:
            self.by_reason[reason] = Skip(count=1, first=place())
        else:
            self.by_reason[reason] = Skip(count=before.count + 1, first=before.first)

    def merge(self, others: Mapping[str, Skip]) -> None:
        """Add counts made elsewhere, which come later in the order of the corpus."""
        for reason, other in others.items():
            before = self.by_reason.get(reason, Skip(count=0, first=other.first))
            self.by_reason[reason] = Skip(count=before.count + other.count, first=before.first)
