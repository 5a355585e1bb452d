"""The task of tokenizing one unit of a corpus, and all that a worker process imports for it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from lumbre.tokenizer import Encoder, Tokenizer

from .disk import explained
from .journal import Journal
from .reader import Reader, Unit
from .workers import Report


@dataclass(frozen=True)
class TokenizeUnit:
    """The task of reading and tokenizing one unit."""

    number: int
    unit: Unit
    reader: Reader
    journal: Path
    tokenizer: Path
    is_fast: bool
    dtype: np.dtype
    unit_bytes: int
    on_bad_document: Literal["error", "skip"]

    def __call__(self, report: Report) -> None:
        """Write the unit to the journal; `report` is told the bytes of text done."""
        with explained(self.journal):
            Journal(self.journal).write(
                self.number,
                self.unit,
                self.reader,
                _encoder(self.tokenizer, self.is_fast),
                self.dtype,
                self.unit_bytes,
                self.on_bad_document,
                report,
            )


@cache
def _encoder(folder: Path, is_fast: bool) -> Encoder:
    return Tokenizer.load(folder).encoder(fast=is_fast)
