"""What is asked of Slurm."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from lumbre.errors import Problem

from ..base import RemoteConfig
from .container import ContainerConfig
from .launcher import SlurmLauncher
from .units import minutes

OURS = {
    **{"nodes": "nodes", "ntasks": "nodes", "ntasks-per-node": "processes_per_node"},
    **{"cpus-per-task": "threads_per_process", "gpus-per-node": "gpus_per_node", "gpus": "gpus_per_node"},
    **{"gres": "gpus_per_node", "partition": "partition", "account": "account", "qos": "qos"},
    **{"time": "time", "constraint": "constraint", "signal": "signal_lead_seconds", "requeue": "requeue"},
    **{"no-requeue": "requeue", "job-name": "launch_name", "export": "pass_env", "array": "grid"},
    **{"output": "launch_name", "error": "launch_name", "open-mode": "launch_name", "chdir": "launch_name"},
    **{"dependency": "the chain of jobs", "kill-on-invalid-dep": "the chain of jobs"},
    **{"parsable": "lumbre launch", "wait": "lumbre launch", "wrap": "the job", "test-only": "lumbre launch"},
}
"""Options of sbatch that a key of ours sets."""
PLAIN = re.compile(r"[^\"'\\#\x00-\x1f\x7f]+")
"""What an #SBATCH line takes as one value between quotes, whatever its spaces."""


class SlurmConfig(RemoteConfig):
    """Submit jobs with sbatch, one torchrun a node, and let them go on after what ends them early."""

    type: Literal["slurm"] = "slurm"
    nodes: PositiveInt = 1
    """Nodes of a training run."""
    processes_per_node: PositiveInt | None = None
    """Training processes of a node; one for each GPU, or one on a node without, when absent."""
    threads_per_process: PositiveInt = 4
    """CPU cores of each process (OMP_NUM_THREADS)."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of each node."""
    gpu_type: str | None = None
    """The kind of GPU, as the cluster calls it."""
    partition: str | None = None
    """The partition; the cluster's default when absent."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """The quality of service."""
    time: str | int | None = None
    """The longest time of one allocation as Slurm writes it: '4:00:00', '1-12:00:00'; a number is minutes."""
    constraint: str | None = None
    """Features that the nodes must have."""
    signal_lead_seconds: PositiveInt = 120
    """How long before the time limit a run is asked to save; Slurm may ask up to a minute earlier."""
    requeue: bool = True
    """Whether a job goes on in a new allocation after its time limit, a preemption or a lost node."""
    max_restarts: NonNegativeInt = 100
    """How often at most, counted by Slurm over all causes."""
    python: str | None = Field(None, min_length=1)
    """The interpreter on the nodes; the one that runs `lumbre launch` when absent."""
    setup: list[str] = Field(default_factory=list)
    """Lines of shell before the job, run as they are: `module load cuda`."""
    container: ContainerConfig | None = None
    """The image that jobs run in; without it they run as the nodes are."""
    at_once: PositiveInt | None = None
    """How many runs of a grid go on at once; as many as Slurm starts when absent."""
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch, without their dashes: `mem: 64G`; true for those that take no value."""

    def problems(self) -> Iterator[Problem]:
        """Report what no #SBATCH line takes, what is told twice, and times that do not fit."""
        yield from super().problems()
        texts = {key: getattr(self, key) for key in ("gpu_type", "partition", "account", "qos", "constraint")}
        texts |= {f"sbatch.{key}": value for key, value in self.sbatch.items()}
        for key, value in texts.items():
            if isinstance(value, str) and not PLAIN.fullmatch(value):
                yield Problem(
                    key, f"{value!r} fits no #SBATCH line", "leave out quotes, \\, # and line breaks"
                )
        for key in self.sbatch:
            if key in OURS:
                yield Problem(f"sbatch.{key}", f"is set by {OURS[key]}", f"use {OURS[key]} alone")
            elif not re.fullmatch(r"[a-z][a-z0-9-]+", key):
                yield Problem(f"sbatch.{key}", "is no long option of sbatch", "write `mem-per-cpu: 4G`")
        if self.processes_per_node and 0 < self.gpus_per_node < self.processes_per_node:
            fault = f"{self.processes_per_node} processes share {self.gpus_per_node} GPUs (gpus_per_node)"
            yield Problem("processes_per_node", fault, "a process has a GPU of its own: leave this key out")
        if self.gpu_type and not self.gpus_per_node:
            yield Problem("gpu_type", "is set, and gpus_per_node is 0", "say how many")
        yield from self._time_problems()

    def _time_problems(self) -> Iterator[Problem]:
        if self.time is None:
            return
        limit = minutes(self.time)
        if limit is None:
            yield Problem("time", f"{self.time!r} is no time of Slurm's", "write '4:00:00' or '1-12:00:00'")
        elif isinstance(self.time, int) and self.time >= 3600 and self.time % 60 == 0:
            # YAML 1.1 reads 4:00:00 without quotes as the number 14400.
            fault = f"YAML read {self.time}, which would be minutes"
            yield Problem("time", fault, f"quote the time: '{self.time // 3600}:00:00'")
        elif limit * 60 <= self.signal_lead_seconds + 60:
            fault = f"{self.signal_lead_seconds} s, and up to a minute more, before the end of {self.time}"
            yield Problem("signal_lead_seconds", f"{fault} is before the job's start", "use a longer time")

    def build(self) -> SlurmLauncher:
        """Return the launcher for the cluster that this machine submits to."""
        return SlurmLauncher(self)
