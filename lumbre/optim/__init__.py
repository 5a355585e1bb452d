"""Optimizers and learning-rate schedules."""

from lumbre.optim.adamw import AdamWConfig
from lumbre.optim.base import NOT_FUSED, Fused, OptimizerConfig, set_learning_rate, states_of
from lumbre.optim.lamb import LambConfig
from lumbre.optim.lion import LionConfig
from lumbre.optim.muon import MuonConfig
from lumbre.optim.pieces import Piece, PiecewiseOptimizer
from lumbre.optim.schedule import (
    ConstantConfig,
    CosineConfig,
    InverseSquareRootConfig,
    LinearConfig,
    ScheduleConfig,
    WsdConfig,
)

__all__ = [
    "NOT_FUSED",
    "AdamWConfig",
    "ConstantConfig",
    "CosineConfig",
    "Fused",
    "InverseSquareRootConfig",
    "LambConfig",
    "LinearConfig",
    "LionConfig",
    "MuonConfig",
    "OptimizerConfig",
    "Piece",
    "PiecewiseOptimizer",
    "ScheduleConfig",
    "WsdConfig",
    "set_learning_rate",
    "states_of",
]
