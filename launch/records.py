"""Launches that were submitted: a folder each, with what was run, its logs, and how to follow it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lumbre.errors import LaunchError

from .base import Follower, Job, Launch, LauncherConfig, Record, RemoteConfig, Run, Task

LAUNCHES = "launches"
"""The folder of all launches, in the folder that `lumbre launch` is called in."""
RECORD = "launch.json"


def folder_of(name: str) -> Path:
    """Return the folder of the launch with this name, absolute."""
    return Path(LAUNCHES).absolute() / name


def known() -> list[str]:
    """Return the names of the launches that have a record here, the latest first."""
    files = sorted(Path(LAUNCHES).glob(f"*/{RECORD}"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [file.parent.name for file in files]


def write(launch: Launch, config: LauncherConfig, state: dict[str, Any]) -> None:
    """Write the record; raises LaunchError where the folder takes none."""
    tree = {
        "time": time.time(),
        "launcher": config.model_dump(mode="json", serialize_as_any=True),
        "launch": asdict(launch),
        "state": state,
    }
    file = launch.folder / RECORD
    try:
        launch.folder.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(tree, default=str, indent=1), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise LaunchError(f"{file}: cannot be written: {error.strerror}; the jobs were started") from error


def read(name: str) -> tuple[Follower, Record]:
    """Return the launcher and the record of a launch; raises LaunchError where there is none."""
    file = folder_of(name) / RECORD
    try:
        tree: dict[str, Any] = json.loads(file.read_bytes())
        config = LauncherConfig.model_validate(tree["launcher"])
        assert isinstance(config, RemoteConfig)
        return config.build(), Record(_launch(tree["launch"]), tree["state"], tree["time"])
    except FileNotFoundError as error:
        listed = ", ".join(known()) or "none"
        raise LaunchError(f"{name!r}: there is no such launch in {LAUNCHES}/; there are: {listed}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LaunchError(f"{file}: is damaged: {error}; ask the cluster's own commands") from error


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write rendered files, scripts as executables; raises LaunchError where the folder takes none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                (folder / name).chmod(0o755)
    except OSError as error:
        raise LaunchError(f"{folder}: cannot be written: {error.strerror}; nothing was started") from error


def _launch(tree: dict[str, Any]) -> Launch:
    def run(one: dict[str, Any]) -> Run:
        job = Job(one["job"]["program"], tuple(one["job"]["arguments"]))
        return Run(job, one["name"], Path(one["folder"]))

    tasks = tuple(Task(task["name"], tuple(map(run, task["runs"]))) for task in tree["tasks"])
    return Launch(tree["name"], tasks, Path(tree["folder"]), Path(tree["directory"]))
