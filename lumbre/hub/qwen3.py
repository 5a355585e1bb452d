"""Qwen3 (Yang et al., 2025, arXiv:2505.09388) as transformers' Qwen3ForCausalLM."""

from collections.abc import Mapping
from typing import Any

from lumbre.hub.base import HF_LAYER_TYPES, SpecialIds, layer_types, unmet, window_width
from lumbre.hub.llama import Llama, decoder_config, decoder_keys, decoder_parts
from lumbre.models import TransformerConfig
from lumbre.models.position import RotaryConfig


class Qwen3(Llama):
    """Llama with normalised queries and keys, and where it says so layers that attend locally."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in Qwen3."""
        wanted = {"qk_norm": True, "bias": False, "window": config.window}
        return unmet(config, RotaryConfig, {**decoder_parts(config), **wanted})

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return Qwen3Config's keys; its sliding window counts the token itself, ours does not."""
        return {
            **decoder_keys(config, special),
            "layer_types": [HF_LAYER_TYPES[kind] for kind in config.layers],
            "use_sliding_window": config.window is not None,
            "sliding_window": config.window + 1 if config.window else None,
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; rotary positions that depend on the length of the input are refused."""
        from transformers import Qwen3Config

        theirs = Qwen3Config(**config)
        types = layer_types("Qwen3", theirs.layer_types)
        width = window_width("Qwen3", "sliding_window", types, theirs.sliding_window)
        window = width and width - 1
        return decoder_config("Qwen3", theirs, bias=False, qk_norm=True, layer_types=types, window=window)
