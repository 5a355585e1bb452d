"""metrics.jsonl: the run's rows as one JSON object a line, the file that every other view is made from."""

import errno
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from lumbre.errors import RunFolderError
from lumbre.tracking.rows import event

METRICS_FILE = "metrics.jsonl"
MOST_WAITING = 100_000
"""Rows that wait for a full disk; what is older is lost."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class JsonlTracker:
    """Appends each row as one line, on its way to the disk before the next step begins.

    While the disk is full, rows wait in memory, the latest MOST_WAITING of them; the file ends with a whole
    line all the time.
    """

    name = "metrics.jsonl"

    def __init__(self, file: Path, tell: Callable[[Mapping[str, Any]], None] = lambda event: None) -> None:
        """`tell` takes the events of a disk that is full and of one that has room again."""
        self._file, self._tell = file, tell
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self._is_full = False
        self._open()

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row; NaN and infinities become null.

        Raises RunFolderError where the file cannot be written for another reason than a full disk.
        """
        self._waiting.append((json.dumps(_plain(row), allow_nan=False) + "\n").encode())
        waited = len(self._waiting)
        if self._write() == self._is_full:
            self._is_full = not self._is_full
            step = row.get("step", 0)
            if self._is_full:
                name, message = "metrics_disk_full", f"{self._file}: the disk is full; rows wait for room"
            else:
                name, message = "metrics_resumed", f"{waited} rows that waited for room are written"
            self._tell(event(name, step, message))

    def roll_back(self, step: int, event: Mapping[str, Any]) -> None:
        """Drop the rows after `step`; the event comes after them."""
        os.close(self._descriptor)
        kept = [line for line in self._waiting if _is_kept(orjson.loads(line), step)]
        self._waiting = deque(kept, maxlen=MOST_WAITING)
        try:
            cut_back(self._file, step)
        finally:
            self._open()
        self.log(event)

    def finish(self, exit_status: int) -> None:
        """Close the file. Raises RunFolderError where rows still wait for room."""
        written = self._write()
        os.close(self._descriptor)
        if not written:
            raise _cannot_write(self._file, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _open(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise _cannot_write(self._file, error) from error

    def _write(self) -> bool:
        """Write the lines that wait; return whether the disk had room for them."""
        while self._waiting:
            whole = line = memoryview(self._waiting[0])
            size = os.fstat(self._descriptor).st_size
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError as error:
                if len(line) < len(whole):
                    os.ftruncate(self._descriptor, size)
                if error.errno in FULL:
                    return False
                raise _cannot_write(self._file, error) from error
            self._waiting.popleft()
        return True


class Follower:
    """Reads a metrics.jsonl as it grows."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = 0

    def new(self) -> list[dict[str, Any]]:
        """Return the rows that have come since the last call; a line is left until it is whole."""
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            whole, newline, _ = stream.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        return [row for _, row in _parsed(whole.split(b"\n"))]


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a line torn by a crash is left out, a missing file has none."""
    return [row for _, row in _rows(file)] if file.is_file() else []


def cut_back(file: Path, step: int) -> None:
    """Drop the rows after `step`, and a torn line, in one atomic replacement of the file."""
    if not file.is_file():
        return
    shorter = file.with_name(f"{file.name}.cut")
    try:
        with shorter.open("wb") as out:
            for line, row in _rows(file):
                if _is_kept(row, step):
                    out.write(line + b"\n")
            out.flush()
            os.fsync(out.fileno())
        shorter.replace(file)
    except OSError as error:
        raise _cannot_write(file, error) from error


def _is_kept(row: Mapping[str, Any], step: int) -> bool:
    return not isinstance(at := row.get("step"), int | float) or at <= step


def _rows(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with file.open("rb") as lines:
        yield from _parsed(lines)


def _parsed(lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for line in lines:
        try:
            row = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield line.rstrip(b"\r\n"), row


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cannot_write(file: Path, error: OSError) -> RunFolderError:
    remedy = f"make room or allow writing (df -h {file.parent}), then run the same command again to resume"
    return RunFolderError(f"{file}: cannot be written: {error.strerror}; {remedy}")
