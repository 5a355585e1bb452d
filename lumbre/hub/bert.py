"""BERT (Devlin et al., 2018, arXiv:1810.04805) as transformers' BertForMaskedLM."""

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

UNUSED = ("bert.pooler.", "cls.seq_relationship.", "bert.embeddings.position_ids")
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


class Bert(StateDictAdapter):
    """Post-norm encoder with learned positions, segment embeddings and BERT's head."""

    model_type = "bert"
    architecture = "BertForMaskedLM"
    auto_class = "AutoModelForMaskedLM"

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in BERT."""
        wanted = {
            "causal": False,
            "norm": "layernorm",
            "norm_position": "post",
            "gated_mlp": False,
            "bias": True,
            "has_attention_bias": True,
            "kv_heads": config.num_heads,
            "head_width": config.hidden_size / config.num_heads,
            "token_types": max(1, config.token_types),
            "embedding_norm": True,
            "first_attention_norm": True,
            "has_final_norm": False,
            "head_transform": True,
            "head_bias": True,
            "tied_embeddings": True,
        }
        return unmet(config, LearnedConfig, wanted)

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return BertConfig's keys; dropout is 0, as trained."""
        return {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "intermediate_size": config.mlp_width,
            "hidden_act": HF_ACTIVATIONS[config.activation],
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": config.max_length,
            "type_vocab_size": config.token_types,
            "initializer_range": config.init_std,
            "layer_norm_eps": config.norm_epsilon,
            "tie_word_embeddings": True,
            **ids(special),
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; decoders, cross-attention and relative positions are refused."""
        from transformers import BertConfig

        theirs = BertConfig(**config)
        plain = {"is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True}
        checked("BERT", theirs, {**plain, "position_embedding_type": "absolute"})
        return TransformerConfig(
            causal=False,
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.hidden_size,
            num_layers=theirs.num_hidden_layers,
            num_heads=theirs.num_attention_heads,
            intermediate_size=theirs.intermediate_size,
            position=LearnedConfig(max_length=theirs.max_position_embeddings),
            norm_position="post",
            norm_epsilon=theirs.layer_norm_eps,
            activation=activation("BERT", "hidden_act", theirs.hidden_act),
            token_types=theirs.type_vocab_size,
            embedding_norm=True,
            head_transform=True,
            head_bias=True,
            init_std=theirs.initializer_range,
        )

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        D = config.hidden_size
        yield Entry("trunk.embedding.weight", ("bert.embeddings.word_embeddings.weight",))
        yield Entry("trunk.position.embedding.weight", ("bert.embeddings.position_embeddings.weight",))
        yield Entry("trunk.token_type_embedding.weight", ("bert.embeddings.token_type_embeddings.weight",))
        modules = {"trunk.embedding_norm": "bert.embeddings.LayerNorm"}
        for layer in range(config.num_layers):
            ours, theirs = f"trunk.blocks.{layer}", f"bert.encoder.layer.{layer}"
            for kind in ("weight", "bias"):
                parts = tuple(f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
                yield Entry(f"{ours}.attention.qkv.{kind}", parts, (D, D, D))
            modules[f"{ours}.attention.output"] = f"{theirs}.attention.output.dense"
            modules[f"{ours}.attention_norm"] = f"{theirs}.attention.output.LayerNorm"
            modules[f"{ours}.mlp.up"] = f"{theirs}.intermediate.dense"
            modules[f"{ours}.mlp.down"] = f"{theirs}.output.dense"
            modules[f"{ours}.mlp_norm"] = f"{theirs}.output.LayerNorm"
        modules["head.dense"] = "cls.predictions.transform.dense"
        modules["head.norm"] = "cls.predictions.transform.LayerNorm"
        for mine, other in modules.items():
            yield Entry(f"{mine}.weight", (f"{other}.weight",))
            yield Entry(f"{mine}.bias", (f"{other}.bias",))
        yield Entry("head.decoder.bias", ("cls.predictions.bias",))

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the pooler and the next-sentence head, which a masked language model has no use for."""
        return {
            name.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
            for name, tensor in state.items()
            if not name.startswith((*UNUSED, *TIED))
        }
