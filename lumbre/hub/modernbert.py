"""ModernBERT (Warner et al., 2024, arXiv:2412.13663) as transformers' ModernBertForMaskedLM."""

from collections.abc import Iterator, Mapping
from typing import Any

from lumbre.errors import ModelError
from lumbre.hub.base import (
    HF_ACTIVATIONS,
    HF_LAYER_TYPES,
    Entry,
    SpecialIds,
    StateDictAdapter,
    activation,
    checked,
    ids,
    layer_types,
    unmet,
    window_width,
)
from lumbre.models import TransformerConfig
from lumbre.models.config import LayerType
from lumbre.models.position import RotaryConfig

GLOBAL, LOCAL = HF_LAYER_TYPES["global"], HF_LAYER_TYPES["local"]


class ModernBert(StateDictAdapter):
    """Pre-norm encoder with rotary positions and a gated MLP; layers attend globally or locally."""

    model_type = "modernbert"
    architecture = "ModernBertForMaskedLM"
    auto_class = "AutoModelForMaskedLM"
    prefix = "model."

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in ModernBERT."""
        wanted = {
            "causal": False,
            "window": config.window,
            "gated_mlp": True,
            "bias": config.bias,
            "has_attention_bias": config.has_attention_bias,
            "embedding_norm": True,
            "first_attention_norm": False,
            "head_transform": True,
            "head_bias": config.head_bias,
            "position.scaling.type": "none",
        }
        return unmet(config, RotaryConfig, wanted)

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return ModernBertConfig's keys; dropout is 0, as trained.

        Local attention and the bases of the rotation are stated under the names of transformers 5 and of 4,
        which has a global layer every so many. Without a position.max_length, transformers' own default
        stands.
        """
        assert isinstance(config.position, RotaryConfig)
        stated, theta = config.position.max_length, config.position.theta
        local_theta = config.position.local_theta or theta
        every = [n for n in range(1, config.num_layers + 1) if config.layers == _every(n, config.num_layers)]
        return {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.mlp_width,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "hidden_activation": HF_ACTIVATIONS[config.activation],
            "classifier_activation": HF_ACTIVATIONS[config.activation],
            **({"max_position_embeddings": stated} if stated else {}),
            "initializer_range": config.init_std,
            "norm_eps": config.norm_epsilon,
            "norm_bias": config.bias,
            "attention_bias": config.has_attention_bias,
            "mlp_bias": config.bias,
            "classifier_bias": config.bias,
            "decoder_bias": config.head_bias,
            "attention_dropout": 0.0,
            "embedding_dropout": 0.0,
            "mlp_dropout": 0.0,
            "classifier_dropout": 0.0,
            "layer_types": [HF_LAYER_TYPES[kind] for kind in config.layers],
            **({"global_attn_every_n_layers": every[0]} if every else {}),
            **({"local_attention": 2 * config.window} if config.window else {}),
            "rope_parameters": {
                GLOBAL: {"rope_type": "default", "rope_theta": theta},
                LOCAL: {"rope_type": "default", "rope_theta": local_theta},
            },
            "global_rope_theta": theta,
            "local_rope_theta": local_theta,
            "tie_word_embeddings": config.tied_embeddings,
            **ids(special),
            "cls_token_id": special.cls_id if special else None,
            "sep_token_id": special.sep_id if special else None,
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; stretched rotary positions are refused."""
        from transformers import ModernBertConfig

        theirs = ModernBertConfig(**config)
        types = layer_types("ModernBERT", theirs.layer_types)
        width = window_width("ModernBERT", "local_attention", types, theirs.local_attention)
        ropes = {
            HF_LAYER_TYPES[kind]: theirs.rope_parameters[HF_LAYER_TYPES[kind]] for kind in sorted(set(types))
        }
        for kind, rope in ropes.items():
            if rope["rope_type"] != "default":
                raise ModelError(
                    f"config.json of ModernBERT: rope_parameters.{kind}.rope_type is {rope['rope_type']!r}, "
                    "and only 'default' is supported here; use a checkpoint without stretched positions"
                )
        theta, local_theta = ropes[min(ropes)]["rope_theta"], ropes[max(ropes)]["rope_theta"]
        same = {"norm_bias": theirs.mlp_bias, "classifier_bias": theirs.mlp_bias}
        checked("ModernBERT", theirs, {**same, "classifier_activation": theirs.hidden_activation})
        return TransformerConfig(
            causal=False,
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.hidden_size,
            num_layers=theirs.num_hidden_layers,
            num_heads=theirs.num_attention_heads,
            intermediate_size=theirs.intermediate_size,
            position=RotaryConfig(
                theta=theta,
                local_theta=None if local_theta == theta else local_theta,
                max_length=theirs.max_position_embeddings,
            ),
            layer_types=types,
            window=width and width // 2,
            norm_epsilon=theirs.norm_eps,
            activation=activation("ModernBERT", "hidden_activation", theirs.hidden_activation),
            gated_mlp=True,
            bias=theirs.mlp_bias,
            attention_bias=theirs.attention_bias,
            embedding_norm=True,
            first_attention_norm=False,
            tied_embeddings=theirs.tie_word_embeddings,
            head_transform=True,
            head_bias=theirs.decoder_bias,
            init="truncated_normal",
            init_std=theirs.initializer_range,
            scaled_residual_init=True,
        )

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        yield Entry("trunk.embedding.weight", ("model.embeddings.tok_embeddings.weight",))
        attention, modules = {}, {"trunk.embedding_norm": "model.embeddings.norm"}
        for layer in range(config.num_layers):
            ours, theirs = f"trunk.blocks.{layer}", f"model.layers.{layer}"
            attention[f"{ours}.attention.qkv"] = f"{theirs}.attn.Wqkv"
            attention[f"{ours}.attention.output"] = f"{theirs}.attn.Wo"
            if layer:
                modules[f"{ours}.attention_norm"] = f"{theirs}.attn_norm"
            modules[f"{ours}.mlp.up"] = f"{theirs}.mlp.Wi"
            modules[f"{ours}.mlp.down"] = f"{theirs}.mlp.Wo"
            modules[f"{ours}.mlp_norm"] = f"{theirs}.mlp_norm"
        modules["trunk.final_norm"] = "model.final_norm"
        modules["head.dense"] = "head.dense"
        modules["head.norm"] = "head.norm"
        for part, biased in ((attention, config.has_attention_bias), (modules, config.bias)):
            for mine, other in part.items():
                yield Entry(f"{mine}.weight", (f"{other}.weight",))
                if biased:
                    yield Entry(f"{mine}.bias", (f"{other}.bias",))
        if not config.tied_embeddings:
            yield Entry("head.decoder.weight", ("decoder.weight",))
        if config.head_bias:
            yield Entry("head.decoder.bias", ("decoder.bias",))

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the name of a tied decoder."""
        return {"decoder.weight": "model.embeddings.tok_embeddings.weight"} if config.tied_embeddings else {}


def _every(n: int, num_layers: int) -> tuple[LayerType, ...]:
    return tuple("local" if layer % n else "global" for layer in range(num_layers))
