"""metrics.jsonl: the run's rows as one JSON object a line, the file that every other view is made from."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from lumbre.errors import RunFolderError

METRICS_FILE = "metrics.jsonl"


class JsonlTracker:
    """Appends each row as one line, on its way to the disk before the next step begins."""

    name = "metrics.jsonl"

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _cannot_write(file, error) from error

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row; NaN and infinities become null. Raises RunFolderError when the disk is full."""
        line = memoryview((json.dumps(_plain(row), allow_nan=False) + "\n").encode())
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            raise _cannot_write(self._file, error) from error

    def finish(self, exit_status: int) -> None:
        """Close the file."""
        os.close(self._descriptor)


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
                if not isinstance(at := row.get("step"), int | float) or at <= step:
                    out.write(line + b"\n")
            out.flush()
            os.fsync(out.fileno())
        shorter.replace(file)
    except OSError as error:
        raise _cannot_write(file, error) from error


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
