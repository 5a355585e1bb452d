"""Position encodings; importing this package registers every member of PositionConfig."""

from lumbre.models.position.alibi import Alibi, AlibiConfig
from lumbre.models.position.base import Position, PositionConfig, Rotation
from lumbre.models.position.learned import Learned, LearnedConfig
from lumbre.models.position.none import NoneConfig
from lumbre.models.position.relative import Relative, RelativeConfig
from lumbre.models.position.rotary import Rotary, RotaryConfig, rotate
from lumbre.models.position.scaling import (
    LinearScaling,
    Llama3Scaling,
    NoScaling,
    RotaryScaling,
    YarnScaling,
)
from lumbre.models.position.sinusoidal import Sinusoidal, SinusoidalConfig

__all__ = [
    "Alibi",
    "AlibiConfig",
    "Learned",
    "LearnedConfig",
    "LinearScaling",
    "Llama3Scaling",
    "NoScaling",
    "NoneConfig",
    "Position",
    "PositionConfig",
    "Relative",
    "RelativeConfig",
    "Rotary",
    "RotaryConfig",
    "RotaryScaling",
    "Rotation",
    "Sinusoidal",
    "SinusoidalConfig",
    "YarnScaling",
    "rotate",
]
