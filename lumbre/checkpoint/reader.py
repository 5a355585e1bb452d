"""Read any part of any tensor of a checkpoint, whatever layout wrote it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from lumbre.errors import CheckpointError


@dataclass(frozen=True)
class _Piece:
    start: int
    stop: int
    file: Path


class Reader:
    """The fragments of a checkpoint folder as whole, flat tensors; reads only what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[tuple[str, str], list[_Piece]] = {}
        self._open: dict[Path, Any] = {}
        for index in sorted(folder.glob("rank-*.json")):
            for entry in json.loads(index.read_bytes())["fragments"]:
                self.shapes[entry["name"]] = tuple(entry["shape"])
                piece = _Piece(
                    entry["start"], entry["start"] + entry["numel"], index.with_suffix(".safetensors")
                )
                for kind in entry["kinds"]:
                    self._pieces.setdefault((kind, entry["name"]), []).append(piece)

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Return elements [start, stop) of the flattened tensor; kind is "param" or a state's name.

        Raises CheckpointError where the checkpoint does not have them all.
        """
        parts: list[torch.Tensor] = []
        position = start
        for piece in sorted(self._pieces.get((kind, name), []), key=lambda piece: piece.start):
            if piece.start <= position < min(stop, piece.stop):
                end = min(stop, piece.stop)
                view = self._file(piece.file).get_slice(f"{kind}/{name}")
                parts.append(view[position - piece.start : end - piece.start])
                position = end
        if position < stop:
            raise CheckpointError(
                f"{self.folder}: {kind} of {name} lacks elements from {position} on; "
                "the checkpoint is of another model or optimizer"
            )
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _file(self, file: Path) -> Any:
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file]
