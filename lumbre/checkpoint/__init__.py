"""Layout-free checkpoints: float32 weights and optimizer state by parameter name, whole or absent."""

from lumbre.checkpoint.identity import differences
from lumbre.checkpoint.reader import Reader
from lumbre.checkpoint.store import CheckpointConfig, Checkpoints
from lumbre.checkpoint.verify import verify

__all__ = ["CheckpointConfig", "Checkpoints", "Reader", "differences", "verify"]
