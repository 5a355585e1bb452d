"""Objectives: what is predicted from what."""

from .base import ModelKind, Objective, ObjectiveConfig
from .clm import ClmConfig
from .fim import FimConfig
from .mlm import MlmConfig
from .next_sentence import NextSentenceConfig
from .prefix_lm import PrefixLmConfig
from .replaced_token import ReplacedTokenConfig
from .sentence_order import SentenceOrderConfig
from .span_corruption import SpanCorruptionConfig
from .ul2 import Ul2Config

__all__ = [
    "ClmConfig",
    "FimConfig",
    "MlmConfig",
    "ModelKind",
    "NextSentenceConfig",
    "Objective",
    "ObjectiveConfig",
    "PrefixLmConfig",
    "ReplacedTokenConfig",
    "SentenceOrderConfig",
    "SpanCorruptionConfig",
    "Ul2Config",
]
