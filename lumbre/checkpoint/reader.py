"""Read any part of any tensor of a checkpoint, whatever layout wrote it."""

import json
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lumbre.checkpoint.manifest import INDEX, listed
from lumbre.checkpoint.shard import DTYPES, HEADER_LENGTH
from lumbre.errors import CheckpointError


@dataclass(frozen=True)
class _Piece:
    start: int
    stop: int
    file: Path


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
                piece = _Piece(
                    entry["start"], entry["start"] + entry["numel"], index.with_suffix(".safetensors")
                )
                for kind in entry["kinds"]:
                    self._pieces.setdefault((kind, entry["name"]), []).append(piece)

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Return elements [start, stop) of the flattened tensor; kind is "param" or a state's name.

        They are read into the tensor that is returned: no other memory is taken. Raises CheckpointError
        where the checkpoint does not have them all.
        """
        key, out, position = f"{kind}/{name}", torch.empty(0), start
        for piece in sorted(self._pieces.get((kind, name), []), key=lambda piece: piece.start):
            if piece.start <= position < min(stop, piece.stop):
                shard = self._shard(piece.file)
                if position == start:
                    out = torch.empty(stop - start, dtype=shard.dtype(key))
                end = min(stop, piece.stop)
                shard.read_into(out[position - start : end - start], key, position - piece.start)
                position = end
        if position < stop:
            raise CheckpointError(
                f"{self.folder}: {kind} of {name} lacks elements from {position} on; "
                "the checkpoint is of another model or optimizer"
            )
        self.bytes_read += out.numel() * out.element_size()
        return out

    def _shard(self, file: Path) -> _Shard:
        if file not in self._open:
            self._open[file] = _Shard(file)
        return self._open[file]
