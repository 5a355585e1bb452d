"""Packings: how documents become rows; importing this package registers every member of PackingConfig."""

from .base import PackingConfig, Row, Rows
from .best_fit import BestFitConfig
from .concatenate import ConcatenateConfig
from .pad import PadConfig

__all__ = ["BestFitConfig", "ConcatenateConfig", "PackingConfig", "PadConfig", "Row", "Rows"]
