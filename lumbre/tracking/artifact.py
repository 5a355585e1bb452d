"""What a run reads or leaves behind, as trackers that keep artifacts know it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True)
class Artifact:
    """A folder: prepared data, a checkpoint, a model."""

    folder: Path
    type: Literal["dataset", "checkpoint", "model"]
    is_input: bool = False
    """Whether the run reads it; else it wrote it."""
    title: str = ""
    """Its name; that of the folder it is in, and its own, where it is left out: NAME-model."""
    aliases: Sequence[str] = ()
    """Names of this version."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What is shown beside it."""

    @property
    def name(self) -> str:
        """The name of its versions, the same for the run that writes and the one that reads."""
        folder = self.folder.absolute()
        name = self.title or f"{folder.parent.name}-{folder.name}"
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:128]


@runtime_checkable
class ArtifactTracker(Protocol):
    """A tracker that keeps artifacts."""

    def artifact(self, artifact: Artifact) -> None:
        """Take what the run reads or has written."""
