"""One Transformer, its position encodings and its heads."""

from lumbre.models.flops import flops_per_token, parameter_count
from lumbre.models.heads import LanguageModel, ModelOutput
from lumbre.models.position import PositionConfig
from lumbre.models.transformer import ModelConfig, Transformer, TransformerConfig

__all__ = [
    "LanguageModel",
    "ModelConfig",
    "ModelOutput",
    "PositionConfig",
    "Transformer",
    "TransformerConfig",
    "flops_per_token",
    "parameter_count",
]
