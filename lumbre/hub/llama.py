"""Llama (Touvron et al., 2023, arXiv:2302.13971) as transformers' LlamaForCausalLM.

What it shares with Qwen3 is in functions beside it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.base import HF_ACTIVATIONS, Entry, SpecialIds, StateDictAdapter, activation, ids, unmet
from lumbre.models import TransformerConfig
from lumbre.models.position import RotaryConfig, RotaryScaling

BUFFERS = (".rotary_emb.inv_freq",)
ORIGINAL = {"original_max_length": "original_max_position_embeddings"}
SCALINGS: dict[str, dict[str, str]] = {
    "linear": {"factor": "factor"},
    "llama3": {name: name for name in ("factor", "low_freq_factor", "high_freq_factor")} | ORIGINAL,
    "yarn": {name: name for name in ("factor", "beta_fast", "beta_slow", "attention_factor")} | ORIGINAL,
}
"""The fields of each scaling of rotary positions, and their keys in rope_parameters."""
UNSCALED = {"partial_rotary_factor": 1.0, "truncate": True, "mscale": None, "mscale_all_dim": None}
"""Keys of rope_parameters that we lack, with what stands for their absence."""


class Llama(StateDictAdapter):
    """Pre-norm decoder with RMSNorm, rotary positions, a gated MLP and grouped queries."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    auto_class = "AutoModelForCausalLM"
    prefix = "model."

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in Llama."""
        if config.hidden_size % config.num_heads:
            return f"num_heads {config.num_heads} does not divide hidden_size {config.hidden_size}"
        return unmet(config, RotaryConfig, {**decoder_parts(config), "bias": config.bias})

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return LlamaConfig's keys; dropout is 0, as trained."""
        return {**decoder_keys(config, special), "mlp_bias": config.bias}

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; rotary positions that depend on the length of the input are refused."""
        from transformers import LlamaConfig

        theirs = LlamaConfig(**config)
        return decoder_config("Llama", theirs, bias=theirs.mlp_bias)

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        return decoder_entries(config)

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the name of a tied decoder."""
        return {"lm_head.weight": "model.embed_tokens.weight"} if config.tied_embeddings else {}

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out stored rotary tables."""
        return {name: tensor for name, tensor in state.items() if not name.endswith(BUFFERS)}


def decoder_parts(config: TransformerConfig) -> dict[str, Any]:
    """Return what Llama and Qwen3 have that is not plain, for `unmet`."""
    return {
        "kv_heads": config.kv_heads,
        "head_width": config.head_width,
        "norm": "rmsnorm",
        "gated_mlp": True,
        "has_attention_bias": config.has_attention_bias,
        "position.local_theta": None,
    }


def decoder_keys(config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
    """Return the keys that LlamaConfig and Qwen3Config share.

    The rotation is stated under the names of transformers 5 and of 4. Without a position.max_length,
    transformers' own default stands.
    """
    assert isinstance(config.position, RotaryConfig)
    stated, theta, scaling = config.position.max_length, config.position.theta, config.position.scaling
    kind = type(scaling).model_fields["type"].default
    fields = {theirs: getattr(scaling, ours) for ours, theirs in SCALINGS.get(kind, {}).items()}
    stretched = {"rope_type": kind, **{key: value for key, value in fields.items() if value is not None}}
    rope = stretched if fields else {"rope_type": "default"}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": HF_ACTIVATIONS[config.activation],
        **({"max_position_embeddings": stated} if stated else {}),
        "initializer_range": config.init_std,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {**rope, "rope_theta": theta},
        "rope_theta": theta,
        **({"rope_scaling": rope} if fields else {}),
        "attention_bias": config.has_attention_bias,
        "tie_word_embeddings": config.tied_embeddings,
        **ids(special),
    }


def decoder_config(family: str, theirs: Any, **others: Any) -> TransformerConfig:
    """Return our config for a LlamaConfig or Qwen3Config; raises ModelError naming what we do not have."""
    return TransformerConfig(
        causal=True,
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.hidden_size,
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        num_kv_heads=theirs.num_key_value_heads,
        head_size=theirs.head_dim,
        intermediate_size=theirs.intermediate_size,
        position=RotaryConfig(
            theta=theirs.rope_parameters["rope_theta"],
            scaling=_scaling(family, theirs.rope_parameters),
            max_length=theirs.max_position_embeddings,
        ),
        norm="rmsnorm",
        norm_epsilon=theirs.rms_norm_eps,
        activation=activation(family, "hidden_act", theirs.hidden_act),
        gated_mlp=True,
        attention_bias=theirs.attention_bias,
        tied_embeddings=theirs.tie_word_embeddings,
        init="normal",
        init_std=theirs.initializer_range,
        **others,
    )


def decoder_entries(config: TransformerConfig) -> Iterator[Entry]:
    """Yield the mapping of every tensor of Llama or Qwen3."""
    yield Entry("trunk.embedding.weight", ("model.embed_tokens.weight",))
    queries, keys = config.num_heads * config.head_width, config.kv_heads * config.head_width
    attention = ["weight", "bias"] if config.has_attention_bias else ["weight"]
    mlp = ["weight", "bias"] if config.bias else ["weight"]
    for layer in range(config.num_layers):
        ours, theirs = f"trunk.blocks.{layer}", f"model.layers.{layer}"
        for kind in attention:
            parts = tuple(f"{theirs}.self_attn.{part}.{kind}" for part in ("q_proj", "k_proj", "v_proj"))
            yield Entry(f"{ours}.attention.qkv.{kind}", parts, (queries, keys, keys))
            yield Entry(f"{ours}.attention.output.{kind}", (f"{theirs}.self_attn.o_proj.{kind}",))
        if config.qk_norm:
            yield Entry(f"{ours}.attention.query_norm.weight", (f"{theirs}.self_attn.q_norm.weight",))
            yield Entry(f"{ours}.attention.key_norm.weight", (f"{theirs}.self_attn.k_norm.weight",))
        for kind in mlp:
            parts = tuple(f"{theirs}.mlp.{part}.{kind}" for part in ("gate_proj", "up_proj"))
            yield Entry(f"{ours}.mlp.up.{kind}", parts, (config.mlp_width, config.mlp_width))
            yield Entry(f"{ours}.mlp.down.{kind}", (f"{theirs}.mlp.down_proj.{kind}",))
        yield Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",))
        yield Entry(f"{ours}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
    yield Entry("trunk.final_norm.weight", ("model.norm.weight",))
    if not config.tied_embeddings:
        yield Entry("head.decoder.weight", ("lm_head.weight",))


def _scaling(family: str, rope: Mapping[str, Any]) -> RotaryScaling:
    kind = rope["rope_type"]
    if kind not in ("default", *SCALINGS):
        raise ModelError(
            f"config.json of {family}: rope_parameters.rope_type is {kind!r}, and supported here are "
            f"{', '.join(['default', *SCALINGS])}; use a checkpoint with one of them"
        )
    for key, value in UNSCALED.items():
        if rope.get(key, value) not in (value, None):
            raise ModelError(
                f"config.json of {family}: rope_parameters.{key} is {rope[key]!r}, and only {value!r} is "
                "supported here; use a checkpoint without that feature"
            )
    found = {ours: rope.get(theirs) for ours, theirs in SCALINGS.get(kind, {}).items()}
    stated = {name: value for name, value in found.items() if value is not None}
    return RotaryScaling.model_validate({"type": "none" if kind == "default" else kind, **stated})
