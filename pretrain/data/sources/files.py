"""The user's own files: paths, folders and globs in a fixed order, packed or not."""

import os
from collections.abc import Iterator
from pathlib import Path

from lumbre.errors import Problem
from lumbre.packed import open_unpacked

from .base import SourceConfig


class FilesConfig(SourceConfig):
    """What sources of the user's own files share."""

    paths: list[str]
    """Files, folders (what is below them and has an ending of this type) and globs (`**` for any depth).

    Text, JSON lines and CSV may be packed: .gz, .zst, .xz, .bz2.
    """

    def missing(self) -> Iterator[Problem]:
        if not self.paths:
            yield Problem("paths", "no path is named", "name files, folders or globs")
        for index, path in enumerate(self.paths):
            if not _expand(path, self.endings):
                fault = "matches no file" if _is_glob(path) else "does not exist"
                if Path(path).is_dir():
                    fault = "holds no file"
                    fault += f" that ends in {', '.join(self.endings)}" if self.endings else ""
                yield Problem(f"paths.{index}", f"{path} {fault}", f"it is looked for from {Path.cwd()}")

    @property
    def endings(self) -> tuple[str, ...]:
        """How the names of the files that are taken from a folder end; none: every name."""
        return ()

    def files(self) -> list[Path]:
        return sorted({file for path in self.paths for file in _expand(path, self.endings)})


def line_of(path: Path, record: int) -> str:
    """Return the place of the line that holds a byte of the unpacked file."""
    with open_unpacked(path) as file:
        line, left = 1, record
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            line += block.count(b"\n")
            left -= len(block)
    return f"{path}: line {line}"


def _is_glob(path: str) -> bool:
    return any(letter in path for letter in "*?[") and not Path(path).exists()


def _expand(path: str, endings: tuple[str, ...]) -> list[Path]:
    """Return the files that a path stands for, broken links and closed folders too: faults, not absences."""
    if not _is_glob(path):
        found = [Path(path)] if Path(path).exists() else []
    else:
        anchor = Path(Path(path).anchor)
        found = list(anchor.glob(str(Path(path).relative_to(anchor))))
    return [file for one in found for file in (_below(one, endings) if one.is_dir() else [one])]


def _below(top: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    closed: list[Path] = []
    for folder, inside, names in os.walk(top, onerror=lambda error: closed.append(Path(error.filename))):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and (not endings or name.endswith(endings)):
                yield Path(folder, name)
    yield from closed
