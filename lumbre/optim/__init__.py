"""Optimizers and learning-rate schedules."""

from lumbre.optim.adamw import AdamWConfig
from lumbre.optim.base import OptimizerConfig, set_learning_rate
from lumbre.optim.schedule import (
    ConstantConfig,
    CosineConfig,
    InverseSquareRootConfig,
    LinearConfig,
    ScheduleConfig,
    WsdConfig,
)

__all__ = [
    "AdamWConfig",
    "ConstantConfig",
    "CosineConfig",
    "InverseSquareRootConfig",
    "LinearConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "WsdConfig",
    "set_learning_rate",
]
