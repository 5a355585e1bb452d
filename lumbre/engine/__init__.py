"""Engines: what runs forward, backward and the optimizer on a layout."""

from lumbre.engine.accelerate import AccelerateConfig
from lumbre.engine.base import Engine, EngineConfig, Fragment, Read
from lumbre.engine.deepspeed import DeepSpeedConfig, DeepSpeedEngine

__all__ = [
    "AccelerateConfig",
    "DeepSpeedConfig",
    "DeepSpeedEngine",
    "Engine",
    "EngineConfig",
    "Fragment",
    "Read",
]
