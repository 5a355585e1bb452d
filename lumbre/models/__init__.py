"""One Transformer, its position encodings and its heads."""

from lumbre.models.config import ModelConfig, TransformerConfig
from lumbre.models.electra import Detector, Electra, generator_config
from lumbre.models.encoder_decoder import EncoderDecoder
from lumbre.models.flops import (
    electra_flops_per_sample,
    flops_per_sample,
    flops_per_token,
    pair_flops_per_sample,
    parameter_count,
)
from lumbre.models.heads import NO_TARGET, LanguageModel, ModelOutput
from lumbre.models.mixture import MixtureConfig
from lumbre.models.pair import PairModel
from lumbre.models.position import PositionConfig
from lumbre.models.transformer import Hidden, Memory, Transformer

__all__ = [
    "NO_TARGET",
    "Detector",
    "Electra",
    "EncoderDecoder",
    "Hidden",
    "LanguageModel",
    "Memory",
    "MixtureConfig",
    "ModelConfig",
    "ModelOutput",
    "PairModel",
    "PositionConfig",
    "Transformer",
    "TransformerConfig",
    "electra_flops_per_sample",
    "flops_per_sample",
    "flops_per_token",
    "generator_config",
    "pair_flops_per_sample",
    "parameter_count",
]
