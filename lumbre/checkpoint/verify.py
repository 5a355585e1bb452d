"""Is a checkpoint whole? Its manifest names every file with its size and SHA-256."""

import json
from pathlib import Path
from typing import Any

from lumbre.files import sha256

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder that is about to be finished: each file's size and hash."""
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    return {
        "format": FORMAT,
        "files": {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files},
    }


def verify(folder: Path) -> list[str]:
    """Return what is wrong with a checkpoint, a line for each fault; empty when it is whole."""
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())
        version, files = listed["format"], listed["files"].items()
        expected = [(str(name), int(entry["bytes"]), str(entry["sha256"])) for name, entry in files]
    except OSError as error:
        return [f"{MANIFEST}: {error.strerror}"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST}: is damaged"]
    if version != FORMAT:
        return [f"{MANIFEST}: format {version} is not this version's {FORMAT}"]
    if STATE not in {name for name, _, _ in expected}:
        return [f"{MANIFEST}: is damaged"]
    faults = []
    for name, size, digest in expected:
        file = folder / name
        if not file.is_file():
            faults.append(f"{name}: is missing")
        elif file.stat().st_size != size:
            faults.append(f"{name}: has {file.stat().st_size} bytes, the manifest says {size}")
        elif sha256(file) != digest:
            faults.append(f"{name}: its SHA-256 is not the manifest's")
    return faults
