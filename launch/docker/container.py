"""A run as a container: its name, what it sees, and the line that starts it."""

import csv
import io
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from lumbre.errors import LaunchError

from ..agent import agent
from ..base import Job, Launch, Run
from ..names import job_name, label

if TYPE_CHECKING:
    from .config import DockerConfig

SCRIPT = "containers.sh"


def name_of(run: Run) -> str:
    """Return the container's name; a run folder has one container, whatever else has the run's name."""
    return f"lumbre-{label(job_name(run), apart=str(run.folder))}"


def processes(config: "DockerConfig", job: Job) -> int:
    """Return how many processes the job gets."""
    if not job.is_training:
        return 1
    return config.processes or (config.gpus if isinstance(config.gpus, int) else 1)


def line(config: "DockerConfig", launch: Launch, run: Run, cores: int, user: tuple[int, int]) -> list[str]:
    """Return what starts the run's container, detached. Values of pass_env are not in it."""
    count = processes(config, run.job)
    threads = config.threads_per_process or max(1, cores // count)
    environment = {"OMP_NUM_THREADS": str(threads), **config.env}
    words = run.job.command
    if count > 1:
        words = agent(run.job, count, config.stop_timeout_seconds, ["--standalone"])
    return [
        *(config.command, "run", "--detach", "--init"),
        f"--name={name_of(run)}",
        *_user(config, user),
        f"--workdir={launch.directory}",
        *(f"--mount={_mount(*folders)}" for folders in seen(config, launch)),
        *(_gpus(config) if run.job.is_training else []),
        f"--shm-size={config.shm_size}",
        *([f"--network={config.network}"] if config.network else []),
        f"--stop-timeout={config.stop_timeout_seconds}",
        *(f"--env={name}={value}" for name, value in environment.items()),
        # A name alone: the engine takes the value from its own environment, where no process list shows it.
        *(f"--env={name}" for name in config.pass_env),
        *config.arguments,
        f"--entrypoint={config.python}",
        config.image,
        *words,
    ]


def script(config: "DockerConfig", lines: list[list[str]], names: list[str]) -> str:
    """Return the lines as a script that a person can run: one container after the other."""
    parts = ["#!/bin/sh", "set -eu"]
    for words, name in zip(lines, names, strict=True):
        options = next(place for place, word in enumerate(words) if word.startswith("--entrypoint="))
        pieces = [words[:4], *([word] for word in words[4:options]), words[options:]]
        parts += ["", " \\\n  ".join(map(shlex.join, pieces))]
        parts += [f'test "$({shlex.join([config.command, "wait", name])})" -eq 0']
    return "\n".join(parts) + "\n"


def seen(config: "DockerConfig", launch: Launch) -> list[tuple[Path, Path, bool]]:
    """Return each folder that containers see: here, there, and whether it is read-only."""
    folders = [(launch.directory, launch.directory, False)]
    for mount in config.mounts:
        source = launch.directory / mount.source.expanduser()
        folders.append((source, mount.target or source, mount.read_only))
    return folders


def refuse_unseen(config: "DockerConfig", launch: Launch) -> None:
    """Raise LaunchError for a run folder that containers would write where nothing of it stays."""
    for run in (run for task in launch.tasks for run in task.runs if run.job.is_training):
        inside = [mount for mount in seen(config, launch) if run.folder.is_relative_to(mount[1])]
        here, there, read_only = max(
            inside, key=lambda mount: len(mount[1].parts), default=(None, None, False)
        )
        if here is None or here != there or read_only:
            raise LaunchError(
                f"{run.folder}: containers would not leave this run folder here; "
                f"add {{source: {run.folder.parent}}} to mounts, or set runs_folder below {launch.directory}"
            )


def _user(config: "DockerConfig", user: tuple[int, int]) -> list[str]:
    if config.user:
        return [f"--user={config.user}"]
    own = f"--user={user[0]}:{user[1]}"
    # Podman without root numbers users anew in the container, unless told to keep this one.
    return ["--userns=keep-id", own] if config.is_podman and user[0] != 0 else [own]


def _mount(source: Path, target: Path, read_only: bool) -> str:
    """Return the value of --mount, which is a line of CSV: a comma or a quote in a path is quoted."""
    text = io.StringIO()
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    csv.writer(text).writerow(fields)
    return text.getvalue().removesuffix("\r\n")


def _gpus(config: "DockerConfig") -> list[str]:
    if config.gpus == "none":
        return []
    if not config.is_podman:
        return [f"--gpus={config.gpus}"]
    wanted = ["all"] if config.gpus == "all" else map(str, range(config.gpus))
    return [f"--device=nvidia.com/gpu={gpu}" for gpu in wanted]
