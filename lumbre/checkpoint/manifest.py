"""The manifest of a checkpoint names every file with its size and SHA-256, and carries its own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 3
"""Format 2 has no shares in its indexes, format 1 no hash of the manifest itself either; both are read."""
MANIFEST = "manifest.json"
STATE = "state.json"
INDEX = "rank-*.json"
"""What each rank's tensors are and how large its file is."""


def sealed(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of a manifest of files by name, each with its bytes and sha256."""
    content = {"format": FORMAT, "files": dict(sorted(files.items()))}
    return _text({**content, "sha256": _hash(content)})


def listed(folder: Path) -> tuple[dict[str, tuple[int, str]], str]:
    """Return size and SHA-256 of every file by the folder's manifest, and what is wrong with that.

    The text must be the one that was written, to the byte: nothing in it can change and be taken for whole.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        content = json.loads(text)
        version, own = content["format"], content.pop("sha256", "")
        files = {str(name): (int(one["bytes"]), str(one["sha256"])) for name, one in content["files"].items()}
    except OSError as error:
        return {}, f"{MANIFEST}: {(error.strerror or str(error)).lower()}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}, f"{MANIFEST}: is damaged"
    if version in (2, FORMAT):
        whole = own == _hash(content) and text == _text({**content, "sha256": own}).encode()
    elif version == 1:
        whole = own == ""
    else:
        # A number that was not written by any version is damage; one of a later version is told as such.
        seems_later = own == _hash(content)
        return {}, (
            f"{MANIFEST}: format {version} is not one that this version reads (1 to {FORMAT})"
            if seems_later
            else f"{MANIFEST}: is damaged"
        )
    if not whole or STATE not in files:
        return {}, f"{MANIFEST}: is damaged"
    return files, ""


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(content).encode()).hexdigest()
