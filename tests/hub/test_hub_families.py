"""Law 6: the families' own classes in transformers and our Transformer compute the same, both ways."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama import modeling_llama
from transformers.models.modernbert import modeling_modernbert

from lumbre.errors import ModelError
from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import Bert
from lumbre.hub.gpt2 import Gpt2
from lumbre.hub.llama import Llama
from lumbre.hub.modernbert import ModernBert
from lumbre.models import LanguageModel

VOCABULARY = 53
LENGTH = 12


@st.composite
def berts(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads = draw(st.integers(1, 3))
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=heads * draw(st.integers(2, 8)),
        num_hidden_layers=draw(st.integers(1, 2)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 40)),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        max_position_embeddings=draw(st.integers(LENGTH, 20)),
        type_vocab_size=draw(st.integers(1, 3)),
        layer_norm_eps=draw(st.sampled_from([1e-12, 1e-5])),
    )
    return Bert(), transformers.BertForMaskedLM(config)


@st.composite
def gpt2s(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads = draw(st.integers(1, 3))
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=heads * draw(st.integers(2, 8)),
        n_layer=draw(st.integers(1, 2)),
        n_head=heads,
        n_inner=draw(st.none() | st.integers(1, 40)),
        n_positions=draw(st.integers(LENGTH, 20)),
        activation_function=draw(st.sampled_from(["gelu_new", "gelu", "relu"])),
        tie_word_embeddings=draw(st.booleans()),
        bos_token_id=1,
        eos_token_id=1,
    )
    return Gpt2(), transformers.GPT2LMHeadModel(config)


@st.composite
def llamas(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=kv_heads * group * draw(st.integers(2, 8)),
        head_dim=2 * draw(st.integers(1, 4)),
        num_hidden_layers=draw(st.integers(1, 2)),
        num_attention_heads=kv_heads * group,
        num_key_value_heads=kv_heads,
        intermediate_size=draw(st.integers(1, 40)),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        rope_parameters={"rope_type": "default", "rope_theta": draw(st.sampled_from([100.0, 10_000.0]))},
    )
    return Llama(), transformers.LlamaForCausalLM(config)


@st.composite
def modernberts(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads, bias = draw(st.integers(1, 3)), draw(st.booleans())
    activation = draw(st.sampled_from(["gelu", "gelu_new", "silu"]))
    theta = draw(st.sampled_from([100.0, 10_000.0]))
    config = transformers.ModernBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=heads * 2 * draw(st.integers(1, 4)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 40)),
        hidden_activation=activation,
        classifier_activation=activation,
        max_position_embeddings=draw(st.integers(LENGTH, 20)),
        norm_eps=draw(st.sampled_from([1e-12, 1e-5])),
        norm_bias=bias,
        mlp_bias=bias,
        classifier_bias=bias,
        attention_bias=draw(st.booleans()),
        decoder_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        global_attn_every_n_layers=1,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": theta}},
        pad_token_id=0,
    )
    return ModernBert(), transformers.ModernBertForMaskedLM(config)


FAMILIES = pytest.mark.parametrize(
    "family", [berts, gpt2s, llamas, modernberts], ids=lambda family: family.__name__
)


def paired(adapter: StateDictAdapter, theirs: Any) -> LanguageModel:
    """Return our model with their weights, every one of them random and large enough to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    theirs.eval()
    config = adapter.from_hf_config(theirs.config.to_dict())
    model = LanguageModel(config.build())
    model.load_state_dict(adapter.from_hf_state(config, theirs.state_dict()), strict=False)
    return model


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    # Transformers stops the gradient of the padding token's embedding, so it stands at padding alone.
    input_ids = torch.randint(1, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(input_ids)
    mask[1, 5:] = 0
    return input_ids.masked_fill(mask == 0, 0), mask


@FAMILIES
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_logits_are_transformers_own(family: Any, data: st.DataObject) -> None:
    adapter, theirs = data.draw(family())
    model = paired(adapter, theirs)
    input_ids, mask = inputs()
    with torch.no_grad():
        for attention_mask in (torch.ones_like(mask), mask):
            wanted = theirs(input_ids=input_ids, attention_mask=attention_mask).logits[attention_mask != 0]
            found = model(input_ids=input_ids, attention_mask=attention_mask).logits[attention_mask != 0]
            assert (found - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max().item())


def use_double_norms(module: torch.nn.Module) -> None:
    """Replace Llama's norms, which round to float32 in any dtype, by torch's own."""
    for name, child in module.named_children():
        if type(child).__name__ == "LlamaRMSNorm":
            norm = torch.nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=torch.float64)
            norm.weight = child.weight
            setattr(module, name, norm)
        use_double_norms(child)


@contextmanager
def double_rotation() -> Iterator[None]:
    """Let ModernBERT's rotation, which rounds to float32 in any dtype, be Llama's, which does not."""
    with mock.patch.object(modeling_modernbert, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb):
        yield


@FAMILIES
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_logits_and_gradients_are_transformers_own_in_float64(family: Any, data: st.DataObject) -> None:
    adapter, theirs = data.draw(family())
    model = paired(adapter, theirs).double()
    theirs.double()
    use_double_norms(theirs)
    input_ids, mask = inputs()
    labels = torch.randint(VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(2))
    losses = []
    for one in (theirs, model):
        with double_rotation():
            logits = one(input_ids=input_ids, attention_mask=mask).logits
        losses.append(F.cross_entropy(logits[mask != 0], labels[mask != 0]))
        losses[-1].backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-9)
    gradients = deepcopy(model)
    for parameter, source in zip(gradients.parameters(), model.parameters(), strict=True):
        assert source.grad is not None
        parameter.data = source.grad
    found = adapter.to_hf_state(gradients)
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = max(gradient.norm().item(), 1e-3)
        assert (found[name] - gradient).norm().item() <= 1e-9 * scale, name


@FAMILIES
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_weights_and_config_come_back_as_they_went(family: Any, data: st.DataObject) -> None:
    adapter, theirs = data.draw(family())
    model = paired(adapter, theirs)
    assert adapter.misfit(model.config) is None
    again = adapter.from_hf_config(adapter.to_hf_config(model.config, None))
    assert again.model_dump(serialize_as_any=True) == model.config.model_dump(serialize_as_any=True)
    state = adapter.to_hf_state(model)
    full = theirs.state_dict()
    assert set(state) <= set(full)
    assert all(torch.equal(state[name], full[name]) for name in state)
    tied = {full[name].data_ptr() for name in set(full) - set(state)}
    assert tied <= {full[name].data_ptr() for name in state}


@pytest.mark.parametrize(
    ("adapter", "keys", "words"),
    [
        (Bert(), {"is_decoder": True}, "is_decoder is True"),
        (Bert(), {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        (Bert(), {"hidden_act": "gelu_10"}, "hidden_act is 'gelu_10'"),
        (Bert(), {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (Gpt2(), {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        (Gpt2(), {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        (
            Llama(),
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1.0}},
            "rope_type",
        ),
        (Llama(), {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        (ModernBert(), {}, "global_attn_every_n_layers makes the attention of layer 1 local"),
        (
            ModernBert(),
            {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
            r"layer_types makes the attention of layer 0 local \(1 of 2 layers\)",
        ),
        (
            ModernBert(),
            {"global_attn_every_n_layers": 1, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_parameters.full_attention.rope_type is 'linear'",
        ),
        (ModernBert(), {"global_attn_every_n_layers": 1, "norm_bias": True}, "norm_bias is True"),
        (ModernBert(), {"global_attn_every_n_layers": 1, "classifier_bias": True}, "classifier_bias is True"),
        (
            ModernBert(),
            {"global_attn_every_n_layers": 1, "classifier_activation": "silu"},
            "classifier_activation is 'silu', and only 'gelu'",
        ),
        (
            ModernBert(),
            {
                "global_attn_every_n_layers": 1,
                "hidden_activation": "tanh",
                "classifier_activation": "tanh",
            },
            "hidden_activation is 'tanh'",
        ),
    ],
)
def test_a_feature_that_we_do_not_have_is_refused_by_name(
    adapter: StateDictAdapter, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        adapter.from_hf_config(keys)


def test_a_bare_gpt2_and_older_files_are_read() -> None:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    bare = transformers.GPT2Model(config)
    state = {**bare.state_dict(), "h.0.attn.bias": torch.ones(1, 1, 8, 8)}
    ours = Gpt2().from_hf_config(config.to_dict())
    found = Gpt2().from_hf_state(ours, state)
    assert torch.equal(found["trunk.embedding.weight"], bare.wte.weight)


def test_older_berts_names_are_read_and_their_other_heads_left_out() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 9}
    theirs = transformers.BertForPreTraining(transformers.BertConfig(vocab_size=20, **sizes))
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in theirs.state_dict().items()
    }
    found = Bert().from_hf_state(Bert().from_hf_config(theirs.config.to_dict()), state)
    assert torch.equal(found["head.norm.bias"], theirs.cls.predictions.transform.LayerNorm.bias)
