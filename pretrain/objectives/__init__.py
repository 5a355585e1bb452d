"""Objectives: what is predicted from what."""

from .base import ModelKind, Objective, ObjectiveConfig
from .clm import ClmConfig
from .fim import FimConfig
from .mlm import MlmConfig
from .prefix_lm import PrefixLmConfig
from .span_corruption import SpanCorruptionConfig
from .ul2 import Ul2Config

__all__ = [
    "ClmConfig",
    "FimConfig",
    "MlmConfig",
    "ModelKind",
    "Objective",
    "ObjectiveConfig",
    "PrefixLmConfig",
    "SpanCorruptionConfig",
    "Ul2Config",
]
