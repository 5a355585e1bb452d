"""What a family's class cannot express, and what of it we do not have, is refused by name."""

from typing import Any

import pytest
import torch
import transformers

from lumbre.errors import ModelError
from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import Bert
from lumbre.hub.electra import ElectraGenerator
from lumbre.hub.gpt2 import Gpt2
from lumbre.hub.llama import Llama
from lumbre.hub.modernbert import ModernBert
from lumbre.hub.qwen3 import Qwen3
from lumbre.hub.roberta import Roberta
from lumbre.hub.t5 import T5
from lumbre.models import MixtureConfig, TransformerConfig
from lumbre.models.position import (
    LinearScaling,
    Llama3Scaling,
    NoneConfig,
    RelativeConfig,
    RotaryConfig,
    YarnScaling,
)
from tests.hub.families import ADAPTERS, KINDS

LOCAL = {"layer_types": ("local",), "window": 4}
GLOBAL = {"global_attn_every_n_layers": 1}


def rope(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, "factor": 2.0, **keys}}


@pytest.mark.parametrize(
    ("adapter", "keys", "words"),
    [
        (Bert(), {"is_decoder": True}, "BERT: is_decoder is True"),
        (Bert(), {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        (Bert(), {"hidden_act": "gelu_10"}, "hidden_act is 'gelu_10'"),
        (Bert(), {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (Roberta(), {"is_decoder": True}, "RoBERTa: is_decoder is True"),
        (Roberta(), {"hidden_act": "relu"}, "hidden_act is 'relu', and only 'gelu'"),
        (Roberta(), {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (Gpt2(), {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        (Gpt2(), {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        (Llama(), rope("dynamic"), "Llama: rope_parameters.rope_type is 'dynamic'"),
        (Llama(), {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        (Llama(), rope("linear", partial_rotary_factor=0.5), "rope_parameters.partial_rotary_factor is 0.5"),
        (Llama(), rope("yarn", mscale=0.7), "rope_parameters.mscale is 0.7"),
        (Llama(), rope("yarn", truncate=False), "rope_parameters.truncate is False"),
        (Llama(), {"hidden_act": "tanh"}, "hidden_act is 'tanh'"),
        (
            Qwen3(),
            rope("longrope", short_factor=[1.0] * 64, long_factor=[2.0] * 64),
            "Qwen3: rope_parameters.rope_type is 'longrope'",
        ),
        (
            Qwen3(),
            {"use_sliding_window": True, "sliding_window": 1, "max_window_layers": 0},
            "sliding_window is 1, and layer_types has local layers",
        ),
        (Qwen3(), {"layer_types": [KINDS[1]] * 32}, "sliding_window is None, and layer_types has local"),
        (Qwen3(), {"layer_types": ["chunked_attention"] * 32}, "layer_types has 'chunked_attention'"),
        (ModernBert(), {"local_attention": 1}, "local_attention is 1, and layer_types has local"),
        (
            ModernBert(),
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_parameters.full_attention.rope_type is 'linear'",
        ),
        (
            ModernBert(),
            {"rope_parameters": {KINDS[1]: {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}}},
            "rope_parameters.sliding_attention.rope_type is 'linear'",
        ),
        (ModernBert(), {"norm_bias": True}, "norm_bias is True"),
        (ModernBert(), {"classifier_bias": True}, "classifier_bias is True"),
        (ModernBert(), {"classifier_activation": "silu"}, "classifier_activation is 'silu', and only 'gelu'"),
        (
            ModernBert(),
            {"hidden_activation": "tanh", "classifier_activation": "tanh"},
            "hidden_activation is 'tanh'",
        ),
        (T5(), {"feed_forward_proj": "gated-tanh"}, "T5: feed_forward_proj is 'tanh'"),
        (T5(), {"is_encoder_decoder": False}, "is_encoder_decoder is False"),
    ],
)
def test_a_feature_that_we_do_not_have_is_refused_by_name(
    adapter: StateDictAdapter, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        adapter.from_hf_config(keys)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.model_type)
@pytest.mark.parametrize(
    ("name", "keys", "expressed"),
    [
        ("mixture", {"mlp": MixtureConfig(num_experts=2)}, ()),
        ("window", LOCAL, (ModernBert, Qwen3)),
        ("position.local_theta", {"position": RotaryConfig(local_theta=9.0)}, (ModernBert,)),
        ("position.scaling", {"position": RotaryConfig(scaling=LinearScaling(factor=2.0))}, (Llama, Qwen3)),
        ("position", {"position": NoneConfig()}, ()),
        ("qk_norm", {"qk_norm": None}, ()),
        ("scaled_attention", {"scaled_attention": None}, ()),
        ("embedding_width", {"embedding_size": 96}, (ElectraGenerator,)),
        ("scaled_head", {"scaled_head": None}, (T5,)),
        ("num_decoder_layers", {"num_decoder_layers": None}, ()),
        ("token_types", {"token_types": 2}, (Bert, ElectraGenerator)),
        ("first_attention_norm", {"first_attention_norm": None}, ()),
        ("has_final_norm", {"final_norm": False}, (Bert, Roberta, ElectraGenerator)),
        ("head_transform", {"head_transform": None}, ()),
        ("has_attention_bias", {"attention_bias": None}, (ModernBert, Llama, Qwen3)),
        ("activation", {"activation": "relu"}, (Bert, ModernBert, Gpt2, Llama, Qwen3, T5)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_fits_a_class_that_has_all_its_features(
    adapter: StateDictAdapter, name: str, keys: dict[str, Any], expressed: tuple[type, ...]
) -> None:
    config = adapter.from_hf_config({"type_vocab_size": 1} if isinstance(adapter, Roberta) else {})
    assert adapter.misfit(config) is None
    other = {key: not getattr(config, name) if value is None else value for key, value in keys.items()}
    misfit = adapter.misfit(config.model_copy(update=other))
    if isinstance(adapter, expressed):
        assert misfit is None
    else:
        assert misfit is not None
        assert misfit.startswith(name if isinstance(config.position, RotaryConfig) else name.split(".")[0])


def test_gated_t5_has_no_exact_gelu() -> None:
    config = T5().from_hf_config({"feed_forward_proj": "gated-gelu"})
    assert config.activation == "gelu_tanh"
    misfit = T5().misfit(config.model_copy(update={"activation": "gelu"}))
    assert misfit == "activation is 'gelu', and gated it is gelu_tanh or relu or silu"


@pytest.mark.parametrize(
    ("adapter", "keys", "wanted"),
    [
        (
            ModernBert(),
            {},
            {
                "layer_types": ("global", "local", "local"),
                "window": 64,
                "position": RotaryConfig(theta=160_000.0, local_theta=10_000.0, max_length=8192),
            },
        ),
        (ModernBert(), GLOBAL, {"layer_types": ("global",), "window": None}),
        (Roberta(), {"max_position_embeddings": 514}, {"max_length": 512}),
        (
            Llama(),
            {
                "max_position_embeddings": 131_072,
                "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            {
                "position": RotaryConfig(
                    theta=500_000.0,
                    scaling=Llama3Scaling(factor=8.0, original_max_length=8192),
                    max_length=131_072,
                )
            },
        ),
        (
            Qwen3(),
            {"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 4.0}},
            {
                "position": RotaryConfig(
                    scaling=YarnScaling(factor=4.0, original_max_length=4096), max_length=4096
                ),
                "window": None,
            },
        ),
        (
            Qwen3(),
            {"use_sliding_window": True, "num_hidden_layers": 4, "max_window_layers": 3},
            {"layer_types": ("global", "global", "global", "local"), "window": 4095},
        ),
        (
            T5(),
            {},
            {
                "position": RelativeConfig(),
                "tied_embeddings": True,
                "scaled_head": True,
                "num_decoder_layers": 6,
                "activation": "relu",
            },
        ),
        (
            T5(),
            {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
            {"tied_embeddings": False, "scaled_head": False, "gated_mlp": True, "activation": "gelu_tanh"},
        ),
    ],
)
def test_published_configs_are_read_as_they_are_meant(
    adapter: StateDictAdapter, keys: dict[str, Any], wanted: dict[str, Any]
) -> None:
    config = adapter.from_hf_config(keys)
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_the_keys_of_transformers_4_say_the_same() -> None:
    written = ModernBert().to_hf_config(ModernBert().from_hf_config({}), None)
    assert ModernBert().from_hf_config(
        {key: value for key, value in written.items() if key not in ("layer_types", "rope_parameters")}
    ) == ModernBert().from_hf_config(written)
    assert written["global_attn_every_n_layers"] == 3
    config = Llama().from_hf_config({"rope_theta": 9.0, "rope_scaling": {"type": "linear", "factor": 2.0}})
    written = Llama().to_hf_config(config, None)
    del written["rope_parameters"]
    assert Llama().from_hf_config(written) == config


def test_t5s_decoder_starts_with_padding() -> None:
    config = TransformerConfig(
        causal=False,
        vocab_size=9,
        hidden_size=4,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        position=RelativeConfig(),
    )
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5().to_hf_config(config, None))
    ).eval()
    labels = torch.tensor([[5, 6, 7]])
    wanted = theirs(input_ids=labels, decoder_input_ids=torch.tensor([[0, 5, 6]])).logits
    assert torch.equal(theirs(input_ids=labels, labels=labels).logits, wanted)
