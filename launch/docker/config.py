"""What is asked of Docker or Podman."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem

from ..agent import cores
from ..base import RemoteConfig
from .launcher import DockerLauncher


class MountConfig(Config):
    """A folder of this machine that containers see."""

    source: Path
    """The folder here; relative to the folder that `lumbre launch` is called in."""
    target: Path | None = None
    """Where containers see it; at the same path when absent, so that paths of configs hold."""
    read_only: bool = False
    """Whether containers may not write to it."""

    def problems(self) -> Iterator[Problem]:
        """Report a target that is not absolute."""
        if self.target is not None and not self.target.is_absolute():
            yield Problem("target", f"{self.target} is no absolute path", "begin it with /")


class DockerConfig(RemoteConfig):
    """Run jobs in containers on this machine, one after the other, and wait for them.

    The folder that `lumbre launch` is called in is mounted at the same path.
    """

    type: Literal["docker"] = "docker"
    image: str = Field("lumbre:cpu", pattern=r"^[A-Za-z0-9]\S*$")
    """The image, which must be on this machine: docker/README.md says how to build it."""
    command: str = Field("docker", min_length=1)
    """The container engine: docker or podman, or the path of one."""
    processes: PositiveInt | None = None
    """Processes of a training run; one for each GPU when absent, and 1 without GPUs."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process (OMP_NUM_THREADS); the cores are shared out evenly when absent."""
    gpus: PositiveInt | Literal["all", "none"] = "none"
    """GPUs that containers see: a number, all, or none."""
    shm_size: str = Field("8g", pattern=r"^[1-9][0-9]*[bkmgBKMG]?$")
    """Shared memory, which NCCL and data loaders use; Docker's own 64 MB are too few."""
    mounts: list[MountConfig] = Field(default_factory=list)
    """Further folders: data, run folders outside the launch folder, a cache of models."""
    network: str | None = Field(None, min_length=1)
    """The network of the containers; the engine's default when absent."""
    user: str | None = Field(None, min_length=1)
    """uid:gid in the containers; yours when absent, so that what they write is yours."""
    python: str = Field("python", min_length=1)
    """The interpreter in the image."""
    arguments: list[str] = Field(default_factory=list)
    """Further arguments of `docker run`: `["--ulimit=memlock=-1"]`."""
    stop_timeout_seconds: PositiveInt = 3600
    """How long a job may take to save after a signal before what is left of it is killed."""
    max_restarts: NonNegativeInt = 3
    """How often a run is started again that its watchdog ended."""

    def problems(self) -> Iterator[Problem]:
        """Report processes that no one can count, and those that would share a GPU."""
        yield from super().problems()
        if self.gpus == "all" and self.processes is None:
            yield Problem(
                "processes", "is missing, and gpus: all is no number", "set it to the number of GPUs"
            )
        if isinstance(self.gpus, int) and (self.processes or 0) > self.gpus:
            fault = f"{self.processes} processes share {self.gpus} GPUs (gpus)"
            yield Problem("processes", fault, "a process has a GPU of its own: leave this key out")

    @property
    def is_podman(self) -> bool:
        """Whether the engine is Podman, whose options differ here and there."""
        return Path(self.command).name.startswith("podman")

    def build(self) -> DockerLauncher:
        """Return the launcher for this machine's containers."""
        return DockerLauncher(self, cores(), (os.getuid(), os.getgid()))
