"""What a run asks of Weights & Biases."""

from typing import Literal

from pydantic import Field, PositiveFloat

from lumbre.tracking.base import RunInfo, TrackerConfig
from lumbre.tracking.wandb.tracker import WandbTracker


class WandbConfig(TrackerConfig):
    """Send the run to Weights & Biases, or keep it beside the run until `wandb sync` sends it."""

    type: Literal["wandb"] = "wandb"
    project: str = "lumbre"
    """Project that the run belongs to."""
    entity: str | None = None
    """User or team that owns the project; the account's default when absent."""
    group: str | None = None
    """Runs of one group are shown together."""
    job_type: str | None = None
    """Kind of run within the group; the program's name when absent."""
    tags: list[str] = Field(default_factory=list)
    """Words to filter runs by."""
    notes: str | None = None
    """A longer description."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online where there is a key and a network, else offline. WANDB_MODE goes before it."""
    artifacts: bool = True
    """Whether data, checkpoints (both by reference) and the model are logged as artifacts, with lineage."""
    upload_model: bool = True
    """Whether the model's files are uploaded; else its artifact says where they are, and their hashes."""
    system_seconds: PositiveFloat | None = 15.0
    """Seconds between looks at each node's CPU, memory, disk, network and GPUs; none: no looks."""

    @property
    def node_seconds(self) -> float | None:
        """Seconds between looks at every node."""
        return self.system_seconds

    def build(self, run: RunInfo) -> WandbTracker:
        """Open the W&B run in the run's folder.

        Raises ConfigError when `mode: online` is asked for and cannot be had.
        """
        return WandbTracker(
            run,
            mode=self.mode,
            belonging={
                "project": self.project,
                "entity": self.entity,
                "group": self.group,
                "job_type": self.job_type or run.job,
                "tags": self.tags,
                "notes": self.notes,
            },
            artifacts=self.artifacts,
            upload_model=self.upload_model,
        )
