"""GPT-2 (Radford et al., 2019) as transformers' GPT2LMHeadModel."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lumbre.hub.base import (
    HF_ACTIVATIONS,
    Entry,
    SpecialIds,
    StateDictAdapter,
    activation,
    checked,
    ids,
    unmet,
)
from lumbre.models import TransformerConfig
from lumbre.models.position import LearnedConfig

BUFFERS = (".attn.bias", ".attn.masked_bias")


class Gpt2(StateDictAdapter):
    """Pre-norm decoder with learned positions; its linear maps are stored transposed."""

    model_type = "gpt2"
    architecture = "GPT2LMHeadModel"
    auto_class = "AutoModelForCausalLM"
    prefix = "transformer."

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in GPT-2."""
        return unmet(config, LearnedConfig, {})

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return GPT2Config's keys; dropout is 0, as trained."""
        return {
            "vocab_size": config.vocab_size,
            "n_positions": config.max_length,
            "n_embd": config.hidden_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.intermediate_size,
            "activation_function": HF_ACTIVATIONS[config.activation],
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "layer_norm_epsilon": config.norm_epsilon,
            "initializer_range": config.init_std,
            "tie_word_embeddings": config.tied_embeddings,
            **ids(special),
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; cross-attention and other scalings of the scores are refused."""
        from transformers import GPT2Config

        theirs = GPT2Config(**config)
        plain = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
        checked("GPT-2", theirs, {**plain, "add_cross_attention": False})
        return TransformerConfig(
            causal=True,
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.n_embd,
            num_layers=theirs.n_layer,
            num_heads=theirs.n_head,
            intermediate_size=theirs.n_inner,
            position=LearnedConfig(max_length=theirs.n_positions),
            norm_epsilon=theirs.layer_norm_epsilon,
            activation=activation("GPT-2", "activation_function", theirs.activation_function),
            tied_embeddings=theirs.tie_word_embeddings,
            init="normal",
            init_std=theirs.initializer_range,
            scaled_residual_init=True,
        )

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        yield Entry("trunk.embedding.weight", ("transformer.wte.weight",))
        yield Entry("trunk.position.embedding.weight", ("transformer.wpe.weight",))
        for layer in range(config.num_layers):
            ours, theirs = f"trunk.blocks.{layer}", f"transformer.h.{layer}"
            linear = {"attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj"}
            linear |= {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
            for mine, other in linear.items():
                yield Entry(f"{ours}.{mine}.weight", (f"{theirs}.{other}.weight",), transposed=True)
                yield Entry(f"{ours}.{mine}.bias", (f"{theirs}.{other}.bias",))
            for mine, other in {"attention_norm": "ln_1", "mlp_norm": "ln_2"}.items():
                yield Entry(f"{ours}.{mine}.weight", (f"{theirs}.{other}.weight",))
                yield Entry(f"{ours}.{mine}.bias", (f"{theirs}.{other}.bias",))
        yield Entry("trunk.final_norm.weight", ("transformer.ln_f.weight",))
        yield Entry("trunk.final_norm.bias", ("transformer.ln_f.bias",))
        if not config.tied_embeddings:
            yield Entry("head.decoder.weight", ("lm_head.weight",))

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the name of a tied decoder."""
        return {"lm_head.weight": "transformer.wte.weight"} if config.tied_embeddings else {}

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out stored causal masks."""
        return {name: tensor for name, tensor in state.items() if not name.endswith(BUFFERS)}
