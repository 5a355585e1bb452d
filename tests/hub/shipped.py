"""The models that are shipped, small enough for tests."""

from typing import Any

import torch

from lumbre import config as configs
from lumbre.models import LanguageModel, ModelConfig, TransformerConfig

SMALL = {"hidden_size": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": None, "intermediate_size": 96}
"""What the published sizes are brought down to."""


def shipped(name: str, **keys: Any) -> LanguageModel:
    """Return one, its weights none that a fresh model has."""
    config = configs.load(ModelConfig, f"configs/model/{name}.yaml", room="model")
    assert isinstance(config, TransformerConfig)
    torch.manual_seed(0)
    small = {} if "tiny" in name else {**SMALL, "vocab_size": 512}
    if config.num_decoder_layers:
        small["num_decoder_layers"] = 2
    model = LanguageModel(config.model_copy(update={**small, **keys}).build(512))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model
