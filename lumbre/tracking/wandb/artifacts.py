"""A folder of the run as a W&B artifact: by reference, or with its files."""

from pathlib import Path
from typing import Any

from lumbre.tracking.artifact import Artifact
from lumbre.tracking.wandb.connection import client

KEPT = ".json"
"""Manifests and configs go along with references: they tell contents apart."""


def log(run: Any, artifact: Artifact, *, upload_model: bool) -> None:
    """Log the folder as the run's output, or as an input that it uses; a folder that is gone is left out.

    Both make a version only where there is none with the same content, so an input that another run of
    the project has logged is that run's version, and W&B draws the line between the two.
    """
    if not artifact.folder.is_dir():
        return
    built = client().Artifact(artifact.name, artifact.type, metadata=dict(artifact.metadata))
    by_reference = artifact.type != "model" or not upload_model
    for file in sorted(artifact.folder.rglob("*")):
        if not file.is_file() or file.name.startswith("."):
            continue
        inside = file.relative_to(artifact.folder).as_posix()
        if by_reference and file.suffix != KEPT:
            # A hash of a model's weights tells versions apart; data and checkpoints have manifests for that.
            built.add_reference(_uri(file), name=inside, checksum=artifact.type == "model")
        else:
            built.add_file(str(file.resolve()), name=inside, skip_cache=True, policy="immutable")
    # The client refuses `use_artifact` offline, and this is what it does online with a folder of one's own.
    run._log_artifact(
        built, aliases=[*artifact.aliases], is_user_created=True, use_after_commit=artifact.is_input
    )


def _uri(file: Path) -> str:
    # Not percent-encoded: the client opens what stands after the scheme.
    return f"file://{file.resolve()}"
