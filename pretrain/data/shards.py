"""Prepared data: a folder of token shards under a hashed manifest, read through memory maps.

A shard is `NAME.tokens`, little-endian uint16 or uint32, and `NAME.offsets`, int64: where each of its
documents begins, and at the end the number of its tokens. A document lies in one shard.
"""

import hashlib
import json
from bisect import bisect_left, bisect_right
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import ValidationError

from lumbre.config import Config
from lumbre.errors import DataError
from lumbre.files import sha256
from lumbre.tokenizer import Tokenizer

from .skips import Skip

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
STAMP = ".verified"
OPEN_SHARDS = 128
SplitName = Literal["train", "validation", "test"]


class Shard(Config):
    """One shard as the manifest lists it."""

    name: str
    documents: int
    tokens: int
    tokens_sha256: str
    offsets_sha256: str


class Manifest(Config):
    """What a prepared folder holds; written last."""

    format_version: int
    fingerprint: str
    """sha256 of what the tokens are: format, tokenizer, type and hashes of the shards."""
    tokenizer_fingerprint: str
    vocab_size: int
    dtype: Literal["uint16", "uint32"]
    shards: dict[SplitName, list[Shard]]
    duplicates: int
    """Documents left out because another has the same text."""
    skipped: dict[str, Skip]
    prepared_from: dict[str, Any]
    """The config and the state of the corpus that it was prepared from."""

    @staticmethod
    def fingerprint_of(tokenizer_fingerprint: str, dtype: str, shards: dict[SplitName, list[Shard]]) -> str:
        """Return the fingerprint of a folder with this content."""
        content = [FORMAT_VERSION, tokenizer_fingerprint, dtype]
        listing = {split: [shard.model_dump() for shard in shards[split]] for split in sorted(shards)}
        return hashlib.sha256(json.dumps([content, listing], sort_keys=True).encode()).hexdigest()


class Documents:
    """The documents of one split as one stream of tokens, in hash order."""

    def __init__(self, folder: Path, name: SplitName, shards: list[Shard], dtype: np.dtype) -> None:
        self.name = name
        self.folder = folder
        self._shards = shards
        self._dtype = dtype
        self._tokens_before = np.cumsum([0, *(shard.tokens for shard in shards)])
        self._documents_before = np.cumsum([0, *(shard.documents for shard in shards)])
        self._bounds: list[int] = self._tokens_before.tolist()
        """The same as numbers, in which Python finds one faster than numpy."""
        self._open = lru_cache(maxsize=OPEN_SHARDS)(self._map)

    @property
    def num_tokens(self) -> int:
        return int(self._tokens_before[-1])

    @property
    def num_documents(self) -> int:
        return int(self._documents_before[-1])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Return the tokens [start, stop) of the stream as int64."""
        out = np.empty(stop - start, dtype=np.int64)
        for shard, first, last in self._overlaps(start, stop):
            base = self._bounds[shard]
            out[first - start : last - start] = self._open(shard)[0][first - base : last - base]
        return out

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        """Return where in the stream documents begin, of those that begin in [start, stop), as int64."""
        found = []
        for shard, first, last in self._overlaps(start, stop):
            base = self._bounds[shard]
            offsets = self._open(shard)[1][:-1]
            low, high = offsets.searchsorted(first - base), offsets.searchsorted(last - base)
            if low < high:
                found.append(offsets[low:high] + base)
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def document(self, index: int) -> tuple[int, int]:
        """Return where a document begins and ends in the stream."""
        shard = int(np.searchsorted(self._documents_before, index, side="right")) - 1
        at = index - int(self._documents_before[shard])
        base = int(self._tokens_before[shard])
        start, stop = self._open(shard)[1][at : at + 2].tolist()
        return base + start, base + stop

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """Return the number of the document that each position of the stream is in, as int64."""
        shards = np.searchsorted(self._tokens_before, positions, side="right") - 1
        out = np.empty(len(positions), dtype=np.int64)
        for shard in np.unique(shards).tolist():
            own = shards == shard
            within = positions[own] - self._tokens_before[shard]
            places = np.searchsorted(self._open(shard)[1], within, side="right") - 1
            out[own] = places + self._documents_before[shard]
        return out

    def place(self, number: int) -> str:
        """Return where a document is to be found: its shard, and its number in it."""
        shard = int(np.searchsorted(self._documents_before, number, side="right")) - 1
        return f"{self._shards[shard].name}:{number - int(self._documents_before[shard])}"

    @cached_property
    def lengths(self) -> np.ndarray:
        """The length in tokens of every document, as int64 in memory."""
        counts = [np.diff(self._open(index)[1]) for index in range(len(self._shards))]
        return np.concatenate([np.empty(0, dtype=np.int64), *counts])

    def _overlaps(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        bounds = self._bounds
        first, last = bisect_right(bounds, start) - 1, bisect_left(bounds, stop)
        return [
            (shard, max(start, bounds[shard]), min(stop, bounds[shard + 1])) for shard in range(first, last)
        ]

    def _map(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        shard = self._shards[index]
        tokens = np.memmap(self.folder / f"{shard.name}.tokens", dtype=self._dtype, mode="r")
        # A plain array over the same memory is cut in a third of the time.
        return tokens.view(np.ndarray), np.fromfile(self.folder / f"{shard.name}.offsets", dtype="<i8")


class PreparedData:
    """A prepared folder, its sizes checked when it is opened and its hashes once."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a folder and check that each file has the size that the manifest states.

        Raises DataError, naming file, fault and remedy, where it is not a prepared folder or damaged.
        """
        folder = Path(folder)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
            version = json.loads(text).get("format_version")
        except OSError as error:
            fault = f"{folder / MANIFEST}: {error.strerror}"
            raise DataError(f"{fault}; run `lumbre prepare`, or name a folder that it wrote") from error
        except (ValueError, AttributeError) as error:
            raise DataError(f"{folder / MANIFEST}: not a manifest; {_again(folder)}") from error
        if version != FORMAT_VERSION:
            fault = f"format version {version}, and this Lumbre reads {FORMAT_VERSION}"
            raise DataError(f"{folder / MANIFEST}: {fault}; {_again(folder)}")
        try:
            data = cls(folder, Manifest.model_validate_json(text))
        except ValidationError as error:
            raise DataError(f"{folder / MANIFEST}: not a manifest: {error}; {_again(folder)}") from error
        for name, size, _ in data._files():
            path = folder / name
            there = path.stat().st_size if path.is_file() else None
            if there != size:
                fault = "is missing" if there is None else f"has {there:,} bytes, not {size:,}"
                raise DataError(f"{path}: {fault}; {_again(folder)}")
        return data

    @property
    def fingerprint(self) -> str:
        """What the order of samples depends on; the same tokens have the same."""
        return self.manifest.fingerprint

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the data was prepared with."""
        tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        self.check_tokenizer(tokenizer)
        return tokenizer

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError where a tokenizer is not the one that the data was prepared with."""
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            fault = (
                f"{self.folder}: prepared with tokenizer {self.manifest.tokenizer_fingerprint}, "
                f"but this one is {tokenizer.fingerprint}"
            )
            raise DataError(f"{fault}; use the tokenizer in {self.folder / TOKENIZER}, or prepare again")

    def split(self, name: SplitName) -> Documents:
        """Return the documents of a split, which may have none."""
        return Documents(
            self.folder,
            name,
            self.manifest.shards.get(name, []),
            np.dtype(self.manifest.dtype).newbyteorder("<"),
        )

    @property
    def is_verified(self) -> bool:
        """Whether the hashes were seen to be right and no file has changed since."""
        try:
            return bool(json.loads((self.folder / STAMP).read_text()) == self._stamp())
        except (OSError, ValueError):
            return False

    def verify(self) -> None:
        """Check every hash, once: a folder that has not changed since is not read again.

        Raises DataError naming the file that is damaged.
        """
        if self.is_verified:
            return
        for name, _, digest in self._files():
            if sha256(self.folder / name) != digest:
                fault = "its content is not what the manifest states (SHA-256 differs)"
                raise DataError(f"{self.folder / name}: {fault}; {_again(self.folder)}")
        self.tokenizer()
        self.mark_verified()

    def mark_verified(self) -> None:
        """Remember that the hashes are right; a folder that cannot be written is checked each time."""
        try:
            (self.folder / STAMP).write_text(json.dumps(self._stamp()))
        except OSError:
            return

    def summary(self) -> str:
        """Return what the folder holds, for people: a line for the splits, a line for what was left out."""
        splits = ", ".join(
            f"{name} {documents.num_documents:,} documents {documents.num_tokens:,} tokens"
            for name in self.manifest.shards
            if (documents := self.split(name)).num_documents
        )
        left_out = [f"{self.manifest.duplicates:,} duplicates"] if self.manifest.duplicates else []
        left_out += [f"{skip.count:,} {reason} (first: {skip.first})" for reason, skip in self._skipped()]
        return f"{self.folder}: {splits}" + (f"\nleft out: {'; '.join(left_out)}" if left_out else "")

    def _skipped(self) -> list[tuple[str, Skip]]:
        return sorted(self.manifest.skipped.items())

    def _files(self) -> list[tuple[str, int, str]]:
        width = np.dtype(self.manifest.dtype).itemsize
        files = []
        for shard in (shard for shards in self.manifest.shards.values() for shard in shards):
            files.append((f"{shard.name}.tokens", shard.tokens * width, shard.tokens_sha256))
            files.append((f"{shard.name}.offsets", (shard.documents + 1) * 8, shard.offsets_sha256))
        return files

    def _stamp(self) -> dict[str, Any]:
        status = {name: (self.folder / name).stat() for name, _, _ in self._files()}
        return {
            "fingerprint": self.fingerprint,
            "files": {name: [one.st_size, one.st_mtime_ns] for name, one in status.items()},
        }


def _again(folder: Path) -> str:
    return f"delete {folder} and prepare again, or copy it anew"
