"""What is asked of Kubernetes."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem

from ..base import RemoteConfig
from ..names import LABEL
from .launcher import KubernetesLauncher

SUBDOMAIN = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|[MGTP]|[KMGTP]i)?$"
LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class VolumeConfig(Config):
    """A volume that all pods share."""

    claim: str = Field(pattern=SUBDOMAIN)
    """The PersistentVolumeClaim; of several nodes' pods it must be ReadWriteMany."""
    path: str = Field(pattern=r"^/[^:]*$")
    """Where pods see it."""
    sub_path: str | None = Field(None, pattern=r"^[^/]")
    """The folder of the volume that is seen; all of it when absent."""
    read_only: bool = False
    """Whether pods may not write to it."""


class TolerationConfig(Config):
    """A taint of nodes that the pods put up with."""

    key: str | None = None
    """The taint; all of them when absent."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether the taint's value must be `value`."""
    value: str | None = None
    """The value of Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect; all of them when absent."""


class KubernetesConfig(RemoteConfig):
    """Apply a Job for each run with kubectl, and let the cluster run it.

    Configs, data and run folders are on volumes that every pod sees.
    """

    type: Literal["kubernetes"] = "kubernetes"
    kind: Literal["job", "pytorchjob"] = "job"
    """A plain indexed Job, or a PyTorchJob, which needs Kubeflow's training operator in the cluster."""
    image: str = Field(pattern=r"^[A-Za-z0-9]\S*$")
    """The image, where the cluster's nodes can pull it."""
    namespace: str = Field("default", pattern=rf"^{LABEL.pattern}$", max_length=63)
    """The namespace."""
    context: str | None = Field(None, min_length=1)
    """The cluster, as kubectl's configuration names it; its current one when absent."""
    nodes: PositiveInt = 1
    """Pods of a training run."""
    processes_per_node: PositiveInt | None = None
    """Training processes of a pod; one for each GPU when absent, and 1 without GPUs."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of each pod."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls them."""
    cpu: str | PositiveInt | None = None
    """CPU cores of each pod."""
    memory: str | None = Field(None, pattern=QUANTITY)
    """Memory of each pod: 64Gi."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each process (OMP_NUM_THREADS); the cores (cpu) are shared out evenly when absent."""
    shm_size: str = Field("8Gi", pattern=QUANTITY)
    """Shared memory, which NCCL and data loaders use; it counts as memory of the pod."""
    volumes: list[VolumeConfig] = Field(default_factory=list)
    """Volumes for configs, data and run folders."""
    directory: str | None = Field(None, pattern=r"^/")
    """Where pods see the folder that `lumbre launch` is called in; at the same path when absent."""
    secret: str | None = Field(None, pattern=SUBDOMAIN)
    """The cluster's Secret that holds the variables of pass_env, each under its name."""
    service_account: str | None = Field(None, pattern=SUBDOMAIN)
    """The service account of the pods; the namespace's default when absent."""
    image_pull_secrets: list[str] = Field(default_factory=list)
    """Secrets for the image's registry."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that the nodes must have."""
    tolerations: list[TolerationConfig] = Field(default_factory=list)
    """Taints that the pods put up with."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of jobs and pods, for queues and accounting."""
    user: PositiveInt = 1000
    """The user of the pods, whose group also owns the volumes where they allow it."""
    python: str = Field("python", min_length=1)
    """The interpreter in the image."""
    port: int = Field(29500, ge=1024, le=65535)
    """The port of the first pod of a Job at which the pods meet."""
    stop_timeout_seconds: PositiveInt = 600
    """How long a pod may take to save when it is evicted or cancelled."""
    max_restarts: NonNegativeInt = 10
    """How many pods may fail before a job counts as failed."""

    def problems(self) -> Iterator[Problem]:
        """Report what a cluster would refuse in words of its own."""
        yield from super().problems()
        if isinstance(self.cpu, str) and not re.fullmatch(QUANTITY, self.cpu):
            yield Problem("cpu", f"{self.cpu!r} is no quantity", "write 8 or 500m")
        if self.processes_per_node and 0 < self.gpus_per_node < self.processes_per_node:
            fault = f"{self.processes_per_node} processes share {self.gpus_per_node} GPUs (gpus_per_node)"
            yield Problem("processes_per_node", fault, "a process has a GPU of its own: leave this key out")
        paths = [PurePosixPath(volume.path) for volume in self.volumes]
        for index, path in enumerate(paths):
            if path in paths[:index]:
                yield Problem(
                    f"volumes.{index}.path", f"{path} is mounted twice", "give each a path of its own"
                )
            if path == PurePosixPath("/dev/shm"):
                yield Problem(f"volumes.{index}.path", "is the shared memory", "set shm_size for its size")
        for group in ("labels", "node_selector"):
            for key, value in getattr(self, group).items():
                if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                    fault = f"{key}={value} is no label of Kubernetes"
                    yield Problem(group, fault, "use letters, digits, . _ -, at most 63 of them in each part")

    def build(self) -> KubernetesLauncher:
        """Return the launcher for the cluster that kubectl talks to."""
        return KubernetesLauncher(self)
