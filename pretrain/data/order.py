"""The global order of samples: a keyed permutation that is computed, not stored.

A Feistel network (Luby and Rackoff, 1988) over the next even number of bits, walked until it lands inside the
range (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").
"""

import hashlib
import struct
from functools import lru_cache

import numpy as np
import numpy.typing as npt

OPEN_WINDOWS = 16
ROUNDS = 8
Words = npt.NDArray[np.uint64]
WORD = (1 << 64) - 1
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


class Permutation:
    """A permutation of range(size), 1 <= size <= 2**63, that is a pure function of (seed, counters)."""

    def __init__(self, size: int, seed: int, *counters: int) -> None:
        if not 1 <= size <= 1 << 63:
            raise ValueError(f"size is {size}; a permutation has 1 to 2**63 elements")
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        name = b"".join(struct.pack("<q", number) for number in (seed, *counters))
        self._keys = struct.unpack(f"<{ROUNDS}Q", hashlib.blake2b(name, digest_size=8 * ROUNDS).digest())

    def __call__(self, index: int) -> int:
        """Return where the permutation sends an index."""
        assert 0 <= index < self.size
        while True:
            left, right = index >> self._half, index & self._mask
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & self._mask)
            index = left << self._half | right
            if index < self.size:
                return index

    def inverse(self, index: int) -> int:
        """Return the index that the permutation sends here."""
        assert 0 <= index < self.size
        while True:
            left, right = index >> self._half, index & self._mask
            for key in reversed(self._keys):
                left, right = right ^ (_mix(left ^ key) & self._mask), left
            index = left << self._half | right
            if index < self.size:
                return index

    def many(self, indices: np.ndarray) -> np.ndarray:
        """Return where the permutation sends each index of an array, as int64."""
        half, mask = np.uint64(self._half), np.uint64(self._mask)
        out = np.asarray(indices).astype(np.uint64)
        todo = np.arange(out.size)
        while todo.size:
            left, right = out[todo] >> half, out[todo] & mask
            for key in self._keys:
                left, right = right, left ^ (_mix_many(right ^ np.uint64(key)) & mask)
            out[todo] = left << half | right
            todo = todo[out[todo] >= self.size]
        return out.astype(np.int64)


class GlobalOrder:
    """The endless stream of samples over `rows` rows: each epoch is a permutation of all of them.

    Where rows come in `windows` equal runs that are each made as a whole, the windows are permuted, and then
    the rows of OPEN_WINDOWS of them at a time, so that neighbours in the stream lie in few windows.
    Orders of one seed with other `stream` names have nothing to do with each other.
    """

    def __init__(self, rows: int, seed: int, windows: int = 1, stream: str = "") -> None:
        self.rows = rows
        self._height = rows // windows
        self._windows = windows
        self._open = min(windows, OPEN_WINDOWS)
        digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
        name = struct.unpack("<q", digest) if stream else ()
        self._permutation = lru_cache(maxsize=8)(
            lambda size, *counters: Permutation(size, seed, *name, *counters)
        )

    def __call__(self, sample: int) -> tuple[int, int]:
        """Return (epoch, row) of a sample of the stream."""
        epoch, index = divmod(sample, self.rows)
        if self._windows == self._open:
            return epoch, self._permutation(self.rows, epoch)(index)
        group, index = divmod(index, self._open * self._height)
        first = group * self._open
        size = min(self._open, self._windows - first) * self._height
        place, row = divmod(self._permutation(size, epoch, group)(index), self._height)
        window = self._permutation(self._windows, epoch)(first + place)
        return epoch, window * self._height + row


def _mix(x: int) -> int:
    """Return the finalizer of SplitMix64 (Steele et al., 2014), a bijection of 64-bit words."""
    x = (x ^ x >> 30) * MIX_1 & WORD
    x = (x ^ x >> 27) * MIX_2 & WORD
    return x ^ x >> 31


def _mix_many(x: Words) -> Words:
    x = (x ^ x >> np.uint64(30)) * np.uint64(MIX_1)
    x = (x ^ x >> np.uint64(27)) * np.uint64(MIX_2)
    return x ^ x >> np.uint64(31)
