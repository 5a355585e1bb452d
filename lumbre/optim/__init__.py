"""Optimizers and learning-rate schedules."""

from lumbre.optim.adamw import AdamWConfig
from lumbre.optim.base import OptimizerConfig, set_learning_rate
from lumbre.optim.schedule import ConstantConfig, CosineConfig, LinearConfig, ScheduleConfig

__all__ = [
    "AdamWConfig",
    "ConstantConfig",
    "CosineConfig",
    "LinearConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "set_learning_rate",
]
