"""One rank's file of a checkpoint: its fragments in the safetensors format, hashed while it is written."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from lumbre.engine import Engine, Fragment

CHUNK = 8 << 20
"""Bytes that are hashed and written at once."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LENGTH = 8
"""Bytes, little-endian, that tell how long the JSON header is; data begins after it."""


@dataclass(frozen=True)
class Layout:
    """What a rank's file holds and where, the same at each save of a run."""

    fragments: list[dict[str, Any]]
    """Name, shape, range and kinds of each fragment, and the rows or columns that the range is of."""
    header: bytes
    """The beginning of the file, up to the data."""
    keys: list[str]
    """kind/name of each tensor, in the order of the data."""
    nbytes: int
    """Bytes of the data."""

    @classmethod
    def of(cls, fragments: Iterable[Fragment]) -> "Layout":
        """Lay out fragments in the order in which they come."""
        listed: list[dict[str, Any]] = []
        tensors: dict[str, dict[str, Any]] = {}
        end = 0
        for fragment in fragments:
            for kind, tensor in fragment.tensors.items():
                begin, end = end, end + tensor.numel() * tensor.element_size()
                place = {
                    "dtype": NAMES[tensor.dtype],
                    "shape": [tensor.numel()],
                    "data_offsets": [begin, end],
                }
                tensors[f"{kind}/{fragment.name}"] = place
            entry = {
                "name": fragment.name,
                "shape": list(fragment.shape),
                "start": fragment.start,
                "numel": fragment.numel,
                "kinds": list(fragment.tensors),
            }
            if fragment.share is not None:
                entry["share"] = {"dim": fragment.share.dim, "ranges": fragment.share.ranges}
            listed.append(entry)
        text = json.dumps(tensors, separators=(",", ":")).encode()
        # The data of any type begins at a multiple of its size.
        text += b" " * (-len(text) % HEADER_LENGTH)
        header = len(text).to_bytes(HEADER_LENGTH, "little") + text
        return cls(listed, header, list(tensors), end)


class HostBuffer:
    """A rank's data in the memory of its host, as its file will have it: allocated once, then reused."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self._device = device
        # Filled, for a page that is first touched during a save would be found and cleared there.
        self._bytes = torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda").fill_(0)

    def copy(self, engine: Engine, layout: Layout) -> memoryview:
        """Copy what the engine's rank owns now; the view is good until the next copy."""
        end = 0
        for _, tensor in _tensors(engine, layout):
            begin, end = end, end + tensor.numel() * tensor.element_size()
            self._bytes[begin:end].view(tensor.dtype).copy_(tensor, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._bytes.numpy().data


def stream(engine: Engine, layout: Layout) -> Iterator[memoryview]:
    """Yield the data tensor by tensor, so that no second copy of it is ever in memory."""
    for _, tensor in _tensors(engine, layout):
        yield tensor.cpu().contiguous().view(torch.uint8).numpy().data


def write_shard(file: Path, layout: Layout, data: Iterable[memoryview]) -> dict[str, Any]:
    """Write the file and wait for the disk to hold it; return its size and SHA-256.

    It is hashed on the way: reading it again would take as long as writing it.
    """
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as out:
        for part in chain([memoryview(layout.header)], data):
            size += len(part)
            for at in range(0, len(part), CHUNK):
                digest.update(part[at : at + CHUNK])
                out.write(part[at : at + CHUNK])
        out.flush()
        os.fsync(out.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _tensors(engine: Engine, layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    keys = iter(layout.keys)
    for fragment in engine.fragments():
        for kind, tensor in fragment.tensors.items():
            key = f"{kind}/{fragment.name}"
            assert key == next(keys, ""), f"{key} has moved within the engine's fragments"
            yield key, tensor.detach()
    assert next(keys, "") == "", "a fragment is gone from the engine"
