"""Read any part of any tensor of a checkpoint, whatever layout wrote it."""

import json
import math
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lumbre.checkpoint.manifest import INDEX, listed
from lumbre.checkpoint.shard import DTYPES, HEADER_LENGTH
from lumbre.errors import CheckpointError
from lumbre.models.share import Share

CHUNK = 1 << 20
"""Elements of a share that are put to their places at once."""


@dataclass(frozen=True)
class _Piece:
    """A fragment in a file: elements [start, stop) of the parameter, or of the share of it."""

    start: int
    stop: int
    file: Path
    share: Share | None

    def within(self, start: int, stop: int) -> tuple[int, int]:
        """Return which of its elements are among [start, stop) of the parameter."""
        if self.share is not None:
            start, stop = self.share.before(start), self.share.before(stop)
        return max(start, self.start), min(stop, self.stop)


class _Shard:
    """A safetensors file whose tensors are read by parts, without mapping it.

    A mapped file that a disk cannot give kills the process; a read is an error that can be told.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._handle = file, os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        length = int.from_bytes(os.pread(self._handle, HEADER_LENGTH, 0), "little")
        self._tensors: dict[str, Any] = json.loads(os.pread(self._handle, length, HEADER_LENGTH))
        self._data = HEADER_LENGTH + length

    def dtype(self, key: str) -> torch.dtype:
        return DTYPES[self._tensors[key]["dtype"]]

    def read_into(self, out: torch.Tensor, key: str, first: int) -> None:
        """Fill `out`, flat and contiguous, with the tensor's elements from `first` on."""
        begin, _ = self._tensors[key]["data_offsets"]
        at = self._data + begin + first * out.element_size()
        left = out.view(torch.uint8).numpy().data
        while left:
            got = os.preadv(self._handle, [left], at)
            if not got:
                raise CheckpointError(f"{self._file}: ends too early; `lumbre verify` tells more")
            left, at = left[got:], at + got


class Reader:
    """The fragments of a checkpoint folder as whole, flat tensors; reads only what is asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the indexes. Raises CheckpointError where the manifest is damaged."""
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.bytes_read = 0
        """Bytes of tensors that have been read."""
        self._pieces: dict[tuple[str, str], list[_Piece]] = {}
        self._open: dict[Path, _Shard] = {}
        files, fault = listed(folder)
        if fault:
            raise CheckpointError(f"{folder}: {fault}; use another checkpoint")
        for name in sorted(name for name in files if Path(name).match(INDEX)):
            index = folder / name
            for entry in json.loads(index.read_bytes())["fragments"]:
                self.shapes[entry["name"]] = tuple(entry["shape"])
                file, stop = index.with_suffix(".safetensors"), entry["start"] + entry["numel"]
                piece = _Piece(entry["start"], stop, file, _share(entry))
                for kind in entry["kinds"]:
                    self._pieces.setdefault((kind, entry["name"]), []).append(piece)

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Return elements [start, stop) of the flattened tensor; kind is "param" or a state's name.

        They are read into the tensor that is returned: no other memory is taken. Raises CheckpointError
        where the checkpoint does not have them all.
        """
        key, pieces, found = f"{kind}/{name}", self._pieces.get((kind, name), []), 0
        out = torch.empty(stop - start, dtype=self._shard(pieces[0].file).dtype(key) if pieces else None)
        for piece in pieces:
            shard, (first, last) = self._shard(piece.file), piece.within(start, stop)
            if piece.share is None and first < last:
                shard.read_into(out[first - start : last - start], key, first - piece.start)
            elif piece.share is not None:
                for at in range(first, last, CHUNK):
                    end = min(at + CHUNK, last)
                    part = torch.empty(end - at, dtype=out.dtype)
                    shard.read_into(part, key, at - piece.start)
                    out[piece.share.places(at, end) - start] = part
            found += max(last - first, 0)
        # Of no element is there more than one.
        if found < stop - start:
            raise CheckpointError(
                f"{self.folder}: {kind} of {name} lacks {stop - start - found} of the elements from {start} "
                f"to {stop}; the checkpoint is of another model or optimizer"
            )
        self.bytes_read += out.numel() * out.element_size()
        return out

    def _shard(self, file: Path) -> _Shard:
        if file not in self._open:
            self._open[file] = _Shard(file)
        return self._open[file]


class Weights(Mapping[str, torch.Tensor]):
    """The trained parameters of a checkpoint by name, each read whole when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the indexes. Raises CheckpointError where the manifest is damaged."""
        self._reader = Reader(folder)

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._reader.shapes[name]
        return self._reader.read("param", name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.shapes)

    def __len__(self) -> int:
        return len(self._reader.shapes)


def _share(entry: Mapping[str, Any]) -> Share | None:
    """Return the rows or columns that a fragment's elements are counted in, as its index says."""
    if "share" not in entry:
        return None
    ranges = tuple((start, end) for start, end in entry["share"]["ranges"])
    return Share(tuple(entry["shape"]), entry["share"]["dim"], ranges)
