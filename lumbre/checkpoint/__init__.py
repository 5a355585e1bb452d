"""Layout-free checkpoints: float32 weights and optimizer state by parameter name, whole or absent."""

from lumbre.checkpoint.config import BestConfig, CheckpointConfig
from lumbre.checkpoint.identity import differences
from lumbre.checkpoint.interval import best_interval
from lumbre.checkpoint.reader import Reader, Weights
from lumbre.checkpoint.store import Checkpoints, Saved
from lumbre.checkpoint.verify import verify

__all__ = [
    "BestConfig",
    "CheckpointConfig",
    "Checkpoints",
    "Reader",
    "Saved",
    "Weights",
    "best_interval",
    "differences",
    "verify",
]
