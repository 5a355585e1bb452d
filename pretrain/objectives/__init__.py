"""Objectives: what is predicted from what."""

from .base import Objective, ObjectiveConfig
from .clm import ClmConfig
from .mlm import MlmConfig

__all__ = ["ClmConfig", "MlmConfig", "Objective", "ObjectiveConfig"]
