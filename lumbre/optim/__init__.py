"""Optimizers and learning-rate schedules."""

from lumbre.optim.adamw import AdamWConfig
from lumbre.optim.base import OptimizerConfig
from lumbre.optim.schedule import ConstantConfig, CosineConfig, LinearConfig, ScheduleConfig

__all__ = [
    "AdamWConfig",
    "ConstantConfig",
    "CosineConfig",
    "LinearConfig",
    "OptimizerConfig",
    "ScheduleConfig",
]
