"""Objectives: what is predicted from what."""

from .base import ModelKind, Objective, ObjectiveConfig
from .clm import ClmConfig
from .mlm import MlmConfig
from .span_corruption import SpanCorruptionConfig

__all__ = ["ClmConfig", "MlmConfig", "ModelKind", "Objective", "ObjectiveConfig", "SpanCorruptionConfig"]
