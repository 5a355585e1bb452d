"""Trackers: where a run's rows go. metrics.jsonl and the console are always on; a config adds others."""

from lumbre.tracking.artifact import Artifact
from lumbre.tracking.base import RunInfo, Tracker, TrackerConfig, Trackers
from lumbre.tracking.rows import Row, event
from lumbre.tracking.wandb import WandbConfig

__all__ = ["Artifact", "Row", "RunInfo", "Tracker", "TrackerConfig", "Trackers", "WandbConfig", "event"]
