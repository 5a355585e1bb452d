"""datatrove's steps of MinHash on our units (Broder, 1997; https://github.com/huggingface/datatrove).

Imported only where near-duplicates are looked for: datatrove is an extra.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document as TroveDocument
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger

from lumbre.tokenizer import split_text

from ..skips import Skips
from .journal import Journal
from .reader import Reader, Unit

PIECE_CHARACTERS = 1 << 20
SHINGLES_AT_ONCE = 1 << 14
SIGNATURES_READ = 1 << 10


def quiet() -> None:
    """Keep datatrove from reporting each of its steps."""
    logger.disable("datatrove")


class Words(WordTokenizer):  # type: ignore[misc]
    """Words between white space; punctuation is gone by then. datatrove's own for English needs spaCy."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class Documents(PipelineStep):  # type: ignore[misc]
    """Reads the documents of a task's units that stand in the journal, in its order."""

    name = "lumbre's documents"
    type = "READER"

    def __init__(
        self, journal: Path, reader: Reader, units: Mapping[int, Sequence[tuple[int, Unit]]]
    ) -> None:
        super().__init__()
        self._journal = journal
        self._reader = reader
        self._units = units

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Yield the documents of task `rank`."""
        journal = Journal(self._journal)
        for number, unit in self._units[rank]:
            kept = self._reader.kept(unit, self._reader.items(unit), Skips("skip"))
            for rows in journal.index(number):
                for file, record in zip(rows["file"].tolist(), rows["record"].tolist(), strict=True):
                    document = next(one for one in kept if (one.file, one.record) == (file, record))
                    yield TroveDocument(text=document.text, id="")


class Signatures(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's signatures, a long document taken in pieces so that memory does not grow with it."""

    def get_shingles(self, text: str) -> np.ndarray:
        """Return the hashes of the n-grams of words; those across the end of a piece are left out."""
        pieces = [super(Signatures, self).get_shingles(piece) for piece in split_text(text, PIECE_CHARACTERS)]
        return np.concatenate(pieces) if pieces else super().get_shingles(text)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """Return the least of each hash function, by buckets."""
        blocks = np.split(shingles, range(SHINGLES_AT_ONCE, len(shingles), SHINGLES_AT_ONCE))
        with np.errstate(over="ignore"):
            least = np.min([super(Signatures, self).get_signature(block) for block in blocks], axis=0)
        return [bucket.tolist() for bucket in least]


def minhash_config(keys: Mapping[str, int]) -> MinhashConfig:
    """Return datatrove's config; SHA-1 takes text with any version of its libraries."""
    return MinhashConfig(hash_config=HashConfig(hash_fc="sha1"), **keys)


def signature_steps(
    journal: Path,
    reader: Reader,
    units: Mapping[int, Sequence[tuple[int, Unit]]],
    folder: Path,
    config: dict[str, int],
) -> list[Any]:
    """Return the pipeline that writes the signatures of a task's documents."""
    signatures = Signatures(str(folder / "signatures"), minhash_config(config), language=Words("any"))
    return [Documents(journal, reader, units), signatures]


def bucket_steps(folder: Path, config: dict[str, int]) -> list[Any]:
    """Return the pipeline that finds the pairs of equal signatures of a bucket."""
    step = MinhashDedupBuckets(
        str(folder / "signatures"),
        str(folder / "pairs"),
        config=minhash_config(config),
        lines_to_buffer=SIGNATURES_READ,
    )
    return [step]


def run_steps(steps: list[Any], rank: int, world_size: int) -> None:
    """Run a pipeline for one task, here."""
    data = None
    for step in steps:
        data = step.run(data, rank, world_size)
    for _ in data or ():
        pass
