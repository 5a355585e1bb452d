"""T5 (Raffel et al., 2019, arXiv:1910.10683) as transformers' T5ForConditionalGeneration.

Version 1.0 ties the head to the embedding and scales what it reads, 1.1 does neither; transformers tells
them apart by `tie_word_embeddings`.
"""

from collections.abc import Collection, Iterator, Mapping
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
    pad_id,
    unmet,
)
from lumbre.models import TransformerConfig
from lumbre.models.position import RelativeConfig

GATED = {"gelu_tanh": "gelu", "relu": "relu", "silu": "silu"}
"""Activations by the names they have after `gated-`, where gelu is the approximation."""
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
HEAD_WEIGHT = "lm_head.weight"
PAD_ID = 0
"""Where no tokenizer says otherwise, the published models'."""


class T5(StateDictAdapter):
    """Pre-norm encoder and decoder with RMSNorm, a relative bias on unscaled scores, and no other bias."""

    model_type = "t5"
    architecture = "T5ForConditionalGeneration"
    auto_class = "AutoModelForSeq2SeqLM"

    def misfit(self, config: TransformerConfig) -> str | None:
        """Return what is not as in T5."""
        wanted = {
            "causal": False,
            "num_decoder_layers": max(1, config.num_decoder_layers),
            "head_width": config.head_width,
            "norm": "rmsnorm",
            "gated_mlp": config.gated_mlp,
            "bias": False,
            "scaled_attention": False,
            "scaled_head": config.tied_embeddings and config.scaled_head,
        }
        misfit = unmet(config, RelativeConfig, wanted)
        if misfit is None and config.gated_mlp and config.activation not in GATED:
            return f"activation is {config.activation!r}, and gated it is {' or '.join(sorted(GATED))}"
        return misfit

    def to_hf_config(self, config: TransformerConfig, special: SpecialIds | None) -> dict[str, Any]:
        """Return T5Config's keys; dropout is 0, as trained, and the decoder starts with padding."""
        assert isinstance(config.position, RelativeConfig)
        gated, kind = config.gated_mlp, config.activation
        pad = pad_id(special, PAD_ID)
        return {
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            "d_kv": config.head_width,
            "d_ff": config.mlp_width,
            "num_layers": config.num_layers,
            "num_decoder_layers": config.num_decoder_layers,
            "num_heads": config.num_heads,
            "relative_attention_num_buckets": config.position.num_buckets,
            "relative_attention_max_distance": config.position.max_distance,
            "dropout_rate": 0.0,
            "layer_norm_epsilon": config.norm_epsilon,
            "initializer_factor": 1.0,
            "feed_forward_proj": f"gated-{GATED[kind]}" if gated else HF_ACTIVATIONS[kind],
            "is_encoder_decoder": True,
            "tie_word_embeddings": config.tied_embeddings,
            "scale_decoder_outputs": config.scaled_head,
            **ids(special),
            "pad_token_id": pad,
            "decoder_start_token_id": pad,
        }

    def from_hf_config(self, config: Mapping[str, Any]) -> TransformerConfig:
        """Return our config; an encoder alone is refused."""
        from transformers import T5Config

        theirs = T5Config(**config)
        checked("T5", theirs, {"is_encoder_decoder": True, "is_decoder": False})
        return TransformerConfig(
            causal=False,
            vocab_size=theirs.vocab_size,
            hidden_size=theirs.d_model,
            num_layers=theirs.num_layers,
            num_decoder_layers=theirs.num_decoder_layers,
            num_heads=theirs.num_heads,
            head_size=theirs.d_kv,
            intermediate_size=theirs.d_ff,
            position=RelativeConfig(
                num_buckets=theirs.relative_attention_num_buckets,
                max_distance=theirs.relative_attention_max_distance,
            ),
            norm="rmsnorm",
            norm_epsilon=theirs.layer_norm_epsilon,
            activation=activation("T5", "feed_forward_proj", theirs.dense_act_fn),
            gated_mlp=theirs.is_gated_act,
            bias=False,
            scaled_attention=False,
            tied_embeddings=theirs.scale_decoder_outputs,
            scaled_head=theirs.scale_decoder_outputs,
            init="t5",
        )

    def settle(self, config: TransformerConfig, names: Collection[str]) -> TransformerConfig:
        """Return the config tied or not: transformers 5 states an unscaled head as tied in any case."""
        if config.scaled_head:
            return config
        return config.model_copy(update={"tied_embeddings": HEAD_WEIGHT not in names})

    def entries(self, config: TransformerConfig) -> Iterator[Entry]:
        """Yield the mapping of every tensor."""
        size = config.num_heads * config.head_width
        yield Entry("trunk.encoder.embedding.weight", ("shared.weight",))
        for stack, layers in {"encoder": config.num_layers, "decoder": config.num_decoder_layers}.items():
            bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            yield Entry(f"trunk.{stack}.position.embedding.weight", (bias,))
            for layer in range(layers):
                ours, theirs = f"trunk.{stack}.blocks.{layer}", f"{stack}.block.{layer}.layer"
                own = f"{theirs}.0.SelfAttention"
                yield Entry(f"{ours}.attention.qkv.weight", _weights(own, "qkv"), (size, size, size))
                yield Entry(f"{ours}.attention.output.weight", _weights(own, "o"))
                yield Entry(f"{ours}.attention_norm.weight", (f"{theirs}.0.layer_norm.weight",))
                if stack == "decoder":
                    cross = f"{theirs}.1.EncDecAttention"
                    yield Entry(f"{ours}.cross_attention.query.weight", _weights(cross, "q"))
                    yield Entry(
                        f"{ours}.cross_attention.key_value.weight", _weights(cross, "kv"), (size, size)
                    )
                    yield Entry(f"{ours}.cross_attention.output.weight", _weights(cross, "o"))
                    yield Entry(f"{ours}.cross_attention_norm.weight", (f"{theirs}.1.layer_norm.weight",))
                last = f"{theirs}.{2 if stack == 'decoder' else 1}"
                mlp = f"{last}.DenseReluDense"
                if config.gated_mlp:
                    sizes = (config.mlp_width, config.mlp_width)
                    yield Entry(f"{ours}.mlp.up.weight", (f"{mlp}.wi_0.weight", f"{mlp}.wi_1.weight"), sizes)
                else:
                    yield Entry(f"{ours}.mlp.up.weight", (f"{mlp}.wi.weight",))
                yield Entry(f"{ours}.mlp.down.weight", (f"{mlp}.wo.weight",))
                yield Entry(f"{ours}.mlp_norm.weight", (f"{last}.layer_norm.weight",))
            yield Entry(f"trunk.{stack}.final_norm.weight", (f"{stack}.final_layer_norm.weight",))
        if not config.tied_embeddings:
            yield Entry("head.decoder.weight", (HEAD_WEIGHT,))

    def twins(self, config: TransformerConfig) -> dict[str, str]:
        """Return the names of the shared embedding."""
        names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        names += [HEAD_WEIGHT] if config.tied_embeddings else []
        return dict.fromkeys(names, "shared.weight")

    def clean(self, config: TransformerConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the cross-attention's relative bias, which older files hold and T5 does not read."""
        return {name: tensor for name, tensor in state.items() if name != UNUSED}


def _weights(module: str, parts: str) -> tuple[str, ...]:
    return tuple(f"{module}.{part}.weight" for part in parts)
