"""The journal of a preparation: tokenized units of work, each whole or absent, so that a killed one goes on.

A unit is two files: `N.tokens`, its documents' tokens in order, and `N.json`, written last, with its skips;
`N.index` has a row of `INDEX` for each document.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lumbre.tokenizer import Tokenizer

from .corpus import Corpus, Skip, Skips, Unit
from .disk import write_whole
from .sources import Document

BATCH_CHARACTERS = 1 << 20

INDEX = np.dtype(
    [
        ("order", "<u8"),  # the first half of the hash of the text
        ("split", "<u8"),  # its second half
        ("source", "<i8"),
        ("file", "<i8"),
        ("record", "<i8"),
        ("unit", "<i8"),
        ("start", "<i8"),  # in tokens, within the unit
        ("length", "<i8"),
    ]
)


class Journal:
    """A folder of tokenized units that belongs to one plan of work, told by its key."""

    def __init__(self, folder: Path, key: str) -> None:
        """Take up the work that lies in the folder if it has this key; clear what has another."""
        self.folder = folder
        mark = folder / "key"
        if not mark.is_file() or mark.read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_whole(mark, key.encode())

    def has(self, number: int) -> bool:
        """Whether a unit is done."""
        return (self.folder / f"{number}.json").is_file()

    def write(
        self,
        number: int,
        unit: Unit,
        corpus: Corpus,
        tokenizer: Tokenizer,
        dtype: np.dtype,
        skips: Skips,
        report: Callable[[int], None],
    ) -> None:
        """Read and tokenize a unit; `report` is told the bytes of text done."""
        rows: list[tuple[int, ...]] = []
        tokens: list[np.ndarray] = []
        batch: list[Document] = []
        filled = done = total = 0

        def flush() -> None:
            nonlocal filled, done, total
            for document, ids in zip(
                batch, tokenizer.encode_batch([document.text for document in batch]), strict=True
            ):
                raw = document.text.encode()
                done += len(raw)
                if not len(ids):
                    skips.add("empty", corpus.place(unit.source, document))
                    continue
                order, split = np.frombuffer(hashlib.blake2b(raw, digest_size=16).digest(), "<u8").tolist()
                place = (unit.source, document.file, document.record, number)
                rows.append((order, split, *place, total, len(ids)))
                tokens.append(ids.astype(dtype))
                total += len(ids)
            report(done)
            batch.clear()
            filled = 0

        for document in corpus.read(unit, skips):
            batch.append(document)
            filled += len(document.text)
            if filled >= BATCH_CHARACTERS:
                flush()
        flush()
        joined = np.concatenate([np.empty(0, dtype), *tokens])
        write_whole(self.folder / f"{number}.tokens", joined)
        write_whole(self.folder / f"{number}.index", np.array(rows, dtype=INDEX).tobytes())
        faults = {reason: skip.model_dump() for reason, skip in skips.by_reason.items()}
        write_whole(self.folder / f"{number}.json", json.dumps(faults).encode())

    def skips(self, number: int) -> dict[str, Skip]:
        """Return what a unit that is done has skipped."""
        faults = json.loads((self.folder / f"{number}.json").read_text())
        return {reason: Skip(**skip) for reason, skip in faults.items()}

    def index(self, number: int) -> np.ndarray:
        """Return the rows of a unit's documents."""
        return np.fromfile(self.folder / f"{number}.index", dtype=INDEX)

    def tokens(self, number: int, dtype: np.dtype) -> np.ndarray:
        """Return the tokens of a unit that has any, as a memory map."""
        return np.memmap(self.folder / f"{number}.tokens", dtype=dtype, mode="r")
