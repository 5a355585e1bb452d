"""Position encodings; importing this package registers every member of PositionConfig."""

from lumbre.models.position.alibi import Alibi, AlibiConfig
from lumbre.models.position.base import Position, PositionConfig, Rotation
from lumbre.models.position.learned import Learned, LearnedConfig
from lumbre.models.position.rotary import Rotary, RotaryConfig
from lumbre.models.position.sinusoidal import Sinusoidal, SinusoidalConfig

__all__ = [
    "Alibi",
    "AlibiConfig",
    "Learned",
    "LearnedConfig",
    "Position",
    "PositionConfig",
    "Rotary",
    "RotaryConfig",
    "Rotation",
    "Sinusoidal",
    "SinusoidalConfig",
]
