"""Files that may be packed (.gz, .zst, .xz, .bz2), read as they were before."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

PACKED = (".gz", ".zst", ".xz", ".bz2")
BUFFER_BYTES = 1 << 16
"""What is read at once: lines are long, and what Python reads by itself is a page."""
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What is raised where a file, packed or not, cannot be read on."""


def is_packed(path: Path) -> bool:
    """Whether a file has to be unpacked from its start."""
    return path.suffix in PACKED


def with_packed(*endings: str) -> tuple[str, ...]:
    """Return endings and those of the same files when packed."""
    return (*endings, *(ending + packed for packed in PACKED for ending in endings))


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading its bytes as they were before it was packed."""
    match path.suffix:
        case ".gz":
            return cast(BinaryIO, gzip.open(path))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path))
        case ".xz":
            return cast(BinaryIO, lzma.open(path))
        case ".zst":
            import pyarrow as pa

            stream = pa.CompressedInputStream(str(path), "zstd")
            return cast(BinaryIO, io.BufferedReader(stream, BUFFER_BYTES))
    return path.open("rb", buffering=BUFFER_BYTES)
