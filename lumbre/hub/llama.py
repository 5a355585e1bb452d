"""Llama (Touvron et al., 2023, arXiv:2302.13971) as transformers' LlamaForCausalLM."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.base import HF_ACTIVATIONS, Entry, SpecialIds, StateDictAdapter, activation, ids, unmet
from lumbre.models import TransformerConfig
from lumbre.models.position import RotaryConfig

BUFFERS = (".rotary_emb.inv_freq",)


class Llama(StateDictAdapter):
    """Pre-norm decoder with RMSNorm, rotary positions, a gated MLP and grouped queries."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    auto_class = "AutoModelForCausalLM"

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in Llama."""
        wanted = {
            "causal": True,
            "norm": "rmsnorm",
            "norm_position": "pre",
            "gated_mlp": True,
            "token_types": 0,
            "embedding_norm": False,
            "first_attention_norm": True,
            "has_final_norm": True,
            "head_transform": False,
            "head_bias": False,
        }
        if config.hidden_size % config.num_heads:
            return f"num_heads {config.num_heads} does not divide hidden_size {config.hidden_size}"
        return unmet(config, RotaryConfig, wanted)

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return LlamaConfig's keys; without a position.max_length, transformers' own default stands."""
        assert isinstance(config.position, RotaryConfig)
        stated = config.position.max_length
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
            "rope_parameters": {"rope_type": "default", "rope_theta": config.position.theta},
            "attention_bias": config.has_attention_bias,
            "mlp_bias": config.bias,
            "tie_word_embeddings": config.tied_embeddings,
            **ids(special),
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; stretched rotary positions are refused."""
        from transformers import LlamaConfig

        theirs = LlamaConfig(**config)
        rope = theirs.rope_parameters
        if rope["rope_type"] != "default":
            raise ModelError(
                f"config.json of Llama: rope_parameters.rope_type is {rope['rope_type']!r}, and only "
                "'default' is supported here; use a checkpoint without stretched positions"
            )
        return TransformerConfig(
            causal=True,
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.hidden_size,
            num_layers=theirs.num_hidden_layers,
            num_heads=theirs.num_attention_heads,
            num_kv_heads=theirs.num_key_value_heads,
            head_size=theirs.head_dim,
            intermediate_size=theirs.intermediate_size,
            position=RotaryConfig(theta=rope["rope_theta"], max_length=theirs.max_position_embeddings),
            norm="rmsnorm",
            norm_epsilon=theirs.rms_norm_eps,
            activation=activation("Llama", "hidden_act", theirs.hidden_act),
            gated_mlp=True,
            bias=theirs.mlp_bias,
            attention_bias=theirs.attention_bias,
            tied_embeddings=theirs.tie_word_embeddings,
            init_std=theirs.initializer_range,
        )

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
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
            for kind in mlp:
                parts = tuple(f"{theirs}.mlp.{part}.{kind}" for part in ("gate_proj", "up_proj"))
                yield Entry(f"{ours}.mlp.up.{kind}", parts, (config.mlp_width, config.mlp_width))
                yield Entry(f"{ours}.mlp.down.{kind}", (f"{theirs}.mlp.down_proj.{kind}",))
            yield Entry(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",))
            yield Entry(f"{ours}.mlp_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        yield Entry("trunk.final_norm.weight", ("model.norm.weight",))
        if not config.tied_embeddings:
            yield Entry("head.decoder.weight", ("lm_head.weight",))

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out stored rotary tables and the second name of a tied decoder."""
        tied = ("lm_head.weight",) if config.tied_embeddings else ()
        return {
            name: tensor for name, tensor in state.items() if not name.endswith(BUFFERS) and name not in tied
        }
