"""One Transformer, its position encodings and its heads."""

from lumbre.models.config import ModelConfig, TransformerConfig
from lumbre.models.encoder_decoder import EncoderDecoder
from lumbre.models.flops import flops_per_sample, flops_per_token, parameter_count
from lumbre.models.heads import NO_TARGET, LanguageModel, ModelOutput
from lumbre.models.mixture import MixtureConfig
from lumbre.models.position import PositionConfig
from lumbre.models.transformer import Hidden, Memory, Transformer

__all__ = [
    "NO_TARGET",
    "EncoderDecoder",
    "Hidden",
    "LanguageModel",
    "Memory",
    "MixtureConfig",
    "ModelConfig",
    "ModelOutput",
    "PositionConfig",
    "Transformer",
    "TransformerConfig",
    "flops_per_sample",
    "flops_per_token",
    "parameter_count",
]
