"""Objectives: what is predicted from what."""

from .base import ModelKind, Objective, ObjectiveConfig
from .clm import ClmConfig
from .mlm import MlmConfig
from .prefix_lm import PrefixLmConfig
from .span_corruption import SpanCorruptionConfig
from .ul2 import Ul2Config

__all__ = [
    "ClmConfig",
    "MlmConfig",
    "ModelKind",
    "Objective",
    "ObjectiveConfig",
    "PrefixLmConfig",
    "SpanCorruptionConfig",
    "Ul2Config",
]
