"""The families' own classes in transformers: small random ones, inputs, and how to run them in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import transformers
from hypothesis import strategies as st
from transformers.models.llama import modeling_llama
from transformers.models.modernbert import modeling_modernbert

from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import Bert
from lumbre.hub.electra import ElectraGenerator
from lumbre.hub.gpt2 import Gpt2
from lumbre.hub.llama import Llama
from lumbre.hub.modernbert import ModernBert
from lumbre.hub.qwen3 import Qwen3
from lumbre.hub.roberta import Roberta
from lumbre.hub.t5 import T5
from lumbre.models import LanguageModel
from lumbre.models.position.sinusoidal import frequencies

ADAPTERS = (Roberta(), Bert(), ElectraGenerator(), ModernBert(), Gpt2(), Llama(), Qwen3(), T5())
LENGTH = 12
PAD_ID = 3
SPECIAL = SimpleNamespace(pad_id=PAD_ID, bos_id=None, eos_id=None, cls_id=None, sep_id=None)
KINDS = ("full_attention", "sliding_attention")


class Pair(NamedTuple):
    """One model, theirs and ours."""

    adapter: StateDictAdapter
    theirs: Any
    ours: LanguageModel


vocabularies = st.integers(PAD_ID + 2, 60)
depths = st.integers(1, 3)
widths = st.integers(1, 40)
lengths = st.integers(LENGTH, 20)
epsilons = st.sampled_from([1e-12, 1e-5])


@st.composite
def berts(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads = draw(st.integers(1, 3))
    config = transformers.BertConfig(
        vocab_size=draw(vocabularies),
        hidden_size=heads * draw(st.integers(2, 8)),
        num_hidden_layers=draw(depths),
        num_attention_heads=heads,
        intermediate_size=draw(widths),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        max_position_embeddings=draw(lengths),
        type_vocab_size=draw(st.integers(1, 3)),
        layer_norm_eps=draw(epsilons),
        pad_token_id=PAD_ID,
    )
    return Bert(), transformers.BertForMaskedLM(config)


@st.composite
def robertas(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads = draw(st.integers(1, 3))
    config = transformers.RobertaConfig(
        vocab_size=draw(vocabularies),
        hidden_size=heads * draw(st.integers(2, 8)),
        num_hidden_layers=draw(depths),
        num_attention_heads=heads,
        intermediate_size=draw(widths),
        max_position_embeddings=draw(lengths) + PAD_ID + 1,
        type_vocab_size=1,
        layer_norm_eps=draw(epsilons),
        pad_token_id=PAD_ID,
    )
    return Roberta(), transformers.RobertaForMaskedLM(config)


@st.composite
def electras(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads = draw(st.integers(1, 3))
    config = transformers.ElectraConfig(
        vocab_size=draw(vocabularies),
        embedding_size=draw(st.integers(2, 20)),
        hidden_size=heads * draw(st.integers(2, 8)),
        num_hidden_layers=draw(depths),
        num_attention_heads=heads,
        intermediate_size=draw(widths),
        hidden_act="gelu",
        max_position_embeddings=draw(lengths),
        type_vocab_size=draw(st.integers(1, 3)),
        layer_norm_eps=1e-12,
        pad_token_id=PAD_ID,
    )
    return ElectraGenerator(), transformers.ElectraForMaskedLM(config)


@st.composite
def modernberts(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads, bias, layers = draw(st.integers(1, 3)), draw(st.booleans()), draw(depths)
    activation = draw(st.sampled_from(["gelu", "gelu_new", "silu"]))
    thetas = {kind: draw(st.sampled_from([100.0, 10_000.0])) for kind in KINDS}
    every = {"global_attn_every_n_layers": draw(st.integers(1, 3))}
    types = {"layer_types": draw(st.lists(st.sampled_from(KINDS), min_size=layers, max_size=layers))}
    config = transformers.ModernBertConfig(
        vocab_size=draw(vocabularies),
        hidden_size=heads * 2 * draw(st.integers(1, 4)),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=draw(widths),
        hidden_activation=activation,
        classifier_activation=activation,
        max_position_embeddings=draw(lengths),
        norm_eps=draw(epsilons),
        norm_bias=bias,
        mlp_bias=bias,
        classifier_bias=bias,
        attention_bias=draw(st.booleans()),
        decoder_bias=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        local_attention=draw(st.integers(2, 2 * LENGTH)),
        rope_parameters={kind: {"rope_type": "default", "rope_theta": thetas[kind]} for kind in KINDS},
        pad_token_id=PAD_ID,
        **draw(st.sampled_from([every, types])),
    )
    return ModernBert(), transformers.ModernBertForMaskedLM(config)


@st.composite
def gpt2s(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    heads = draw(st.integers(1, 3))
    config = transformers.GPT2Config(
        vocab_size=draw(vocabularies),
        n_embd=heads * draw(st.integers(2, 8)),
        n_layer=draw(depths),
        n_head=heads,
        n_inner=draw(st.none() | widths),
        n_positions=draw(lengths),
        activation_function=draw(st.sampled_from(["gelu_new", "gelu", "relu"])),
        tie_word_embeddings=draw(st.booleans()),
        bos_token_id=1,
        eos_token_id=1,
    )
    return Gpt2(), transformers.GPT2LMHeadModel(config)


@st.composite
def ropes(draw: st.DrawFn) -> dict[str, Any]:
    """Rotary positions of every type that we have, with lengths as small as the inputs."""
    original = {"original_max_position_embeddings": draw(st.integers(4, 64))}
    low = draw(st.floats(0.5, 2.0))
    blend = {"low_freq_factor": low, "high_freq_factor": low + draw(st.floats(0.5, 4.0))}
    turns = {"beta_fast": draw(st.floats(4.0, 32.0)), "beta_slow": draw(st.floats(0.01, 2.0))}
    more = {
        "default": {},
        "linear": {},
        "llama3": {**original, **blend},
        "yarn": {**original, **draw(st.sampled_from([{}, turns, {"attention_factor": 1.3}]))},
    }
    kind = draw(st.sampled_from(sorted(more)))
    factor = {} if kind == "default" else {"factor": draw(st.floats(1.0, 8.0))}
    theta = draw(st.sampled_from([100.0, 10_000.0]))
    return {"rope_type": kind, "rope_theta": theta, **factor, **more[kind]}


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, Any]:
    """What Llama and Qwen3 share, with any number of queries to a key."""
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    return {
        "vocab_size": draw(vocabularies),
        "hidden_size": kv_heads * group * draw(st.integers(2, 8)),
        "head_dim": 2 * draw(st.integers(1, 4)),
        "num_hidden_layers": draw(depths),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "intermediate_size": draw(widths),
        "rms_norm_eps": draw(epsilons),
        "attention_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(ropes()),
        "max_position_embeddings": draw(lengths),
    }


@st.composite
def llamas(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    config = transformers.LlamaConfig(**draw(sizes()), mlp_bias=draw(st.booleans()))
    return Llama(), transformers.LlamaForCausalLM(config)


@st.composite
def qwen3s(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    shared = draw(sizes())
    layers = shared["num_hidden_layers"]
    types = {"layer_types": draw(st.lists(st.sampled_from(KINDS), min_size=layers, max_size=layers))}
    config = transformers.Qwen3Config(
        **shared,
        use_sliding_window=True,
        sliding_window=draw(st.integers(2, LENGTH)),
        **draw(st.sampled_from([types, {"max_window_layers": draw(st.integers(0, 3))}])),
    )
    return Qwen3(), transformers.Qwen3ForCausalLM(config)


@st.composite
def t5s(draw: st.DrawFn) -> tuple[StateDictAdapter, Any]:
    buckets, tied = draw(st.integers(4, 12)), draw(st.booleans())
    config = transformers.T5Config(
        vocab_size=draw(vocabularies),
        d_model=draw(st.integers(2, 16)),
        d_kv=draw(st.integers(1, 6)),
        d_ff=draw(widths),
        num_layers=draw(depths),
        num_decoder_layers=draw(depths),
        num_heads=draw(st.integers(1, 3)),
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=buckets // 2 + draw(st.integers(1, 8)),
        layer_norm_epsilon=draw(epsilons),
        feed_forward_proj=draw(st.sampled_from(["relu", "gelu", "gated-gelu", "gated-silu"])),
        tie_word_embeddings=tied,
        pad_token_id=PAD_ID,
        decoder_start_token_id=PAD_ID,
    )
    theirs = transformers.T5ForConditionalGeneration(config)
    if not tied:
        # Transformers unties a head of version 1.1 when it finds one in the file.
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.detach().clone())
    return T5(), theirs


FAMILIES = (berts, robertas, electras, modernberts, gpt2s, llamas, qwen3s, t5s)


def paired(adapter: StateDictAdapter, theirs: Any) -> Pair:
    """Return our model with their weights, every one of them random and large enough to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if isinstance(adapter, Roberta) and "position" in name:
                parameter[: PAD_ID + 1] = 0
    theirs.eval()
    config = adapter.from_hf_config(theirs.config.to_dict())
    ours = LanguageModel(config.build())
    missing, extra = ours.load_state_dict(adapter.from_hf_state(config, theirs.state_dict()), strict=False)
    tied = {name for name, _ in ours.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in ours.named_parameters()}
    assert not extra
    assert set(missing) <= tied | {"trunk.embedding.weight"}
    return Pair(adapter, theirs, ours)


def inputs(pair: Pair, padded: bool) -> dict[str, torch.Tensor]:
    """Return random tokens for either; padding alone has the padding's id, by which RoBERTa counts."""
    generator = torch.Generator().manual_seed(1)
    size = pair.ours.config.vocab_size
    assert size is not None

    def tokens(prefix: str, row: int, kept: int) -> dict[str, torch.Tensor]:
        input_ids = torch.randint(size - 1, (3, LENGTH), generator=generator)
        input_ids += (input_ids >= PAD_ID).long()
        mask = torch.ones_like(input_ids)
        if not padded:
            return {f"{prefix}input_ids": input_ids}
        mask[row, kept:] = 0
        return {f"{prefix}input_ids": input_ids.where(mask != 0, PAD_ID), f"{prefix}attention_mask": mask}

    batch = tokens("", 1, 5)
    return batch | tokens("decoder_", 2, 7) if isinstance(pair.adapter, T5) else batch


def read(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return where the head reads no padding, a bool [B, T]."""
    prefix = "decoder_" if "decoder_input_ids" in batch else ""
    return batch.get(f"{prefix}attention_mask", torch.ones_like(batch[f"{prefix}input_ids"])) != 0


def to_double(pair: Pair) -> Pair:
    """Return both in float64, without what transformers rounds to float32 in any dtype."""
    use_double_norms(pair.theirs.double())
    share_frequencies(pair)
    return pair._replace(ours=pair.ours.double())


def use_double_norms(module: torch.nn.Module) -> None:
    """Replace their own RMSNorms by torch's."""
    for name, child in module.named_children():
        if type(child).__name__ in ("LlamaRMSNorm", "Qwen3RMSNorm", "T5LayerNorm"):
            norm = torch.nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=torch.float64)
            norm.weight = child.weight
            setattr(module, name, norm)
        use_double_norms(child)


def share_frequencies(pair: Pair) -> None:
    """Give them our frequencies, in any dtype float32: those of stretched positions differ in rounding."""
    if isinstance(pair.adapter, Llama):
        position = pair.ours.trunk.position
        plain = frequencies(position.head_size, position.theta, torch.device("cpu"))
        ours, theirs = position.scaling.scale(plain, position.theta), pair.theirs.model.rotary_emb.inv_freq
        torch.testing.assert_close(theirs.float(), ours, rtol=1e-5, atol=0)
        theirs.copy_(ours)


@contextmanager
def double_rotation() -> Iterator[None]:
    """Let ModernBERT's rotation, which rounds to float32, be Llama's, which does not."""
    with mock.patch.object(modeling_modernbert, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb):
        yield
