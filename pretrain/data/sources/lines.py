"""Lines and paragraphs of a range of bytes, so that any cut of a file into ranges gives each of them once."""

from collections.abc import Iterator
from typing import BinaryIO


def lines_from(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line without its end) of the lines that begin in [start, end)."""
    at = _line_start(file, start)
    while at < end and (line := file.readline()):
        yield at, line.rstrip(b"\r\n")
        at += len(line)


def paragraphs_from(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, paragraph) of a range; a paragraph's lines stand between blank ones.

    A range owns what follows the first blank line that begins at or after its start (the first range: what
    follows the start of the file), up to the first blank line that begins at or after its end.
    """
    at = _line_start(file, start)
    ours = start == 0
    lines: list[bytes] = []
    begin = at
    for line in file:
        if at >= end and not ours:
            return
        if line.strip():
            if ours:
                begin = begin if lines else at
                lines.append(line)
        else:
            if lines:
                yield begin, b"".join(lines).rstrip(b"\r\n")
                lines = []
            if at >= end:
                return
            ours = True
        at += len(line)
    if lines:
        yield begin, b"".join(lines).rstrip(b"\r\n")


def _line_start(file: BinaryIO, start: int) -> int:
    """Move to the first line that begins at or after `start`, and return where that is."""
    if start == 0:
        return 0
    file.seek(start - 1)
    return start - 1 + len(file.readline())
