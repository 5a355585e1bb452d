"""The board: shared memory in which a rank notes what it does, and from which its helper reads it."""

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass

_NOTE = struct.Struct("<Qqddq64s64s")
"""Count of notes, step, when (monotonic), limit in seconds, collectives so far, phase, collective."""
_FLAGS_AT = 512
_SIZE = 4096
_ENDING, _CLAIMED = 0, 1
_NAME_BYTES = 64


@dataclass(frozen=True)
class Note:
    """What a rank does, as it last noted it."""

    count: int
    """Grows with each note: one that stays the same is a rank that stands still."""
    step: int
    since: float
    """When it was noted, in seconds of the machine's monotonic clock."""
    limit: float
    """Seconds until the next note is overdue."""
    collectives: int
    """Collectives of Lumbre's own that the rank has begun."""
    phase: str
    collective: str
    """The collective of Lumbre's own that the rank is in, "" outside."""


class Board:
    """One rank's board; the rank writes, the helper reads."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._count = 0

    def write(self, step: int, limit: float, collectives: int, phase: bytes, collective: bytes) -> None:
        """Note what the rank does from now on; names are cut at 64 bytes."""
        self._count += 1
        _NOTE.pack_into(
            self._map, 0, self._count, step, time.monotonic(), limit, collectives, phase, collective
        )

    def read(self) -> Note:
        """Return the last note, read twice where it is being written."""
        while True:
            raw = self._map[: _NOTE.size]
            if raw == self._map[: _NOTE.size]:
                count, step, since, limit, collectives, phase, collective = _NOTE.unpack(raw)
                return Note(count, step, since, limit, collectives, _text(phase), _text(collective))

    @property
    def ending(self) -> bool:
        """Whether the rank has come to an end by itself, well or not: that it is gone then is no news."""
        return bool(self._map[_FLAGS_AT + _ENDING])

    @ending.setter
    def ending(self, value: bool) -> None:
        self._map[_FLAGS_AT + _ENDING] = value

    @property
    def claimed(self) -> bool:
        """Whether the run folder is this job's, so that helpers may meet in it."""
        return bool(self._map[_FLAGS_AT + _CLAIMED])

    @claimed.setter
    def claimed(self, value: bool) -> None:
        self._map[_FLAGS_AT + _CLAIMED] = value


def shared_memory(name: str, size: int = _SIZE) -> int:
    """Return the descriptor of memory that a child process may share; nothing of it stays on a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as stream:
            descriptor = os.dup(stream.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")
