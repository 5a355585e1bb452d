"""Trackers: where a run's rows go. metrics.jsonl and the console are always on; a config adds others."""

from lumbre.tracking.base import Row, RunInfo, Tracker, TrackerConfig, Trackers
from lumbre.tracking.wandb import WandbConfig

__all__ = ["Row", "RunInfo", "Tracker", "TrackerConfig", "Trackers", "WandbConfig"]
