"""Methods: which of a model's weights fine-tuning trains, and what is saved of it."""

from .base import MethodConfig, parameter_counts
from .frozen import FrozenConfig
from .full import FullConfig
from .lora import LoraConfig
from .qlora import QloraConfig

__all__ = ["FrozenConfig", "FullConfig", "LoraConfig", "MethodConfig", "QloraConfig", "parameter_counts"]
