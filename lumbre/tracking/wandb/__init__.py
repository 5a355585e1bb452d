"""Weights & Biases through its own client: one run for all ranks, the same one after a resume."""

from lumbre.tracking.wandb.config import WandbConfig

__all__ = ["WandbConfig"]
