"""BERT (Devlin et al., 2018, arXiv:1810.04805) as transformers' BertForMaskedLM and BertForPreTraining."""

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
from lumbre.models import PairModel, TransformerConfig
from lumbre.models.position import LearnedConfig


class Bert(StateDictAdapter):
    """Post-norm encoder with learned positions, segment embeddings and BERT's head."""

    model_type = "bert"
    architecture = "BertForMaskedLM"
    auto_class = "AutoModelForMaskedLM"
    prefix = "bert."

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in BERT."""
        return unmet(config, LearnedConfig, encoder_parts(config))

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return BertConfig's keys; dropout is 0, as trained."""
        return {**encoder_keys(config, special), "max_position_embeddings": config.max_length}

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; decoders, cross-attention and relative positions are refused."""
        from transformers import BertConfig

        theirs = BertConfig(**config)
        return encoder_config("BERT", theirs, theirs.max_position_embeddings)

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        yield from trunk_entries(config, self.prefix)
        for kind in ("weight", "bias"):
            yield Entry(f"head.dense.{kind}", (f"cls.predictions.transform.dense.{kind}",))
            yield Entry(f"head.norm.{kind}", (f"cls.predictions.transform.LayerNorm.{kind}",))
        yield Entry("head.decoder.bias", ("cls.predictions.bias",))

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the decoder's names."""
        return {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        }

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the pooler and the next-sentence head, which a masked language model has no use for."""
        return _renamed(state, unused=(*unread(self.prefix), "cls.seq_relationship."))


class BertPair(Bert):
    """BERT with its pooler and next-sentence head: what it was published with."""

    architecture = "BertForPreTraining"
    auto_class = "AutoModelForPreTraining"
    kind = PairModel
    outputs = {"logits": "prediction_logits", "pair_logits": "seq_relationship_logits"}  # noqa: RUF012

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        yield from super().entries(config)
        for kind in ("weight", "bias"):
            yield Entry(f"pair_head.pooler.{kind}", (f"{self.prefix}pooler.dense.{kind}",))
            yield Entry(f"pair_head.classifier.{kind}", (f"cls.seq_relationship.{kind}",))

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the numbers of positions."""
        return _renamed(state, unused=unread(self.prefix)[1:])


def _renamed(state: Mapping[str, Tensor], unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the state under today's names, without what begins as `unused` do."""
    return {
        name.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
        for name, tensor in state.items()
        if not name.startswith(unused)
    }


def encoder_parts(config: TransformerConfig) -> dict[str, Any]:
    """Return what BERT and RoBERTa have that is not plain, for `unmet`."""
    return {
        "causal": False,
        "norm_position": "post",
        "token_types": max(1, config.token_types),
        "embedding_norm": True,
        "head_transform": True,
        "head_bias": True,
        "tied_embeddings": True,
    }


def encoder_keys(config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
    """Return the keys that BertConfig and RobertaConfig share, without max_position_embeddings."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": HF_ACTIVATIONS[config.activation],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": config.token_types,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": True,
        **ids(special),
    }


def encoder_config(family: str, theirs: Any, max_length: int) -> TransformerConfig:
    """Return our config for a BertConfig or RobertaConfig; raises ModelError naming what we do not have."""
    plain = {"is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True}
    checked(family, theirs, {**plain, "position_embedding_type": "absolute"})
    return TransformerConfig(
        causal=False,
        vocab_size=theirs.vocab_size,
        hidden_size=theirs.hidden_size,
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        intermediate_size=theirs.intermediate_size,
        position=LearnedConfig(max_length=max_length),
        norm_position="post",
        norm_epsilon=theirs.layer_norm_eps,
        activation=activation(family, "hidden_act", theirs.hidden_act),
        token_types=theirs.type_vocab_size,
        embedding_norm=True,
        head_transform=True,
        head_bias=True,
        init="truncated_normal",
        init_std=theirs.initializer_range,
    )


def trunk_entries(config: TransformerConfig, prefix: str) -> Iterator[Entry]:
    """Yield the mapping of every tensor of the trunk of BERT or RoBERTa."""
    D = config.hidden_size
    modules = {"trunk.embedding_norm": f"{prefix}embeddings.LayerNorm"}
    for mine, other in {
        "embedding": "word_embeddings",
        "position.embedding": "position_embeddings",
        "token_type_embedding": "token_type_embeddings",
    }.items():
        yield Entry(f"trunk.{mine}.weight", (f"{prefix}embeddings.{other}.weight",))
    for layer in range(config.num_layers):
        ours, theirs = f"trunk.blocks.{layer}", f"{prefix}encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}.attention.self.{part}.{kind}" for part in ("query", "key", "value"))
            yield Entry(f"{ours}.attention.qkv.{kind}", parts, (D, D, D))
        modules[f"{ours}.attention.output"] = f"{theirs}.attention.output.dense"
        modules[f"{ours}.attention_norm"] = f"{theirs}.attention.output.LayerNorm"
        modules[f"{ours}.mlp.up"] = f"{theirs}.intermediate.dense"
        modules[f"{ours}.mlp.down"] = f"{theirs}.output.dense"
        modules[f"{ours}.mlp_norm"] = f"{theirs}.output.LayerNorm"
    for mine, other in modules.items():
        yield Entry(f"{mine}.weight", (f"{other}.weight",))
        yield Entry(f"{mine}.bias", (f"{other}.bias",))


def unread(prefix: str) -> tuple[str, str]:
    """Return how names begin of what files of BERT or RoBERTa hold and a masked language model lacks."""
    return f"{prefix}pooler.", f"{prefix}embeddings.position_ids"
