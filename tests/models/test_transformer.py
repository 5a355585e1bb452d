"""The Transformer's config, its inputs, its head and its first weights."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lumbre import config as configs
from lumbre.errors import ConfigError, ModelError
from lumbre.models import NO_TARGET, LanguageModel, ModelConfig, TransformerConfig, transformer

SHIPPED = sorted(Path("configs/model").glob("*.yaml"))


def config_of(**keys: Any) -> TransformerConfig:
    base = {"causal": False, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
    return TransformerConfig.model_validate({**base, "position": {"type": "rotary"}, **keys})


def model_of(**keys: Any) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(config_of(**keys).build())


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_model_is_a_valid_config(file: Path) -> None:
    config = configs.load(ModelConfig, file, room="model")
    assert isinstance(config, TransformerConfig)
    with torch.device("meta"):
        LanguageModel(config.build(config.vocab_size or 8192))


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"num_heads": 5}, "num_heads", "5 heads do not divide hidden_size 24 (24 = 5 x 4 + 4)"),
        ({"num_heads": 5}, "num_heads", "use num_heads 4"),
        ({"num_kv_heads": 3}, "num_kv_heads", "3 key/value heads do not divide 4 heads"),
        ({"num_heads": 8}, "head_size", "the head size 3 is odd"),
        ({"hidden_size": 25, "num_heads": 5, "position": {"type": "sinusoidal"}}, "hidden_size", "25 is odd"),
        ({"first_attention_norm": False}, "first_attention_norm", "what the embedding norm gives"),
        (
            {"first_attention_norm": False, "embedding_norm": True, "norm_position": "post"},
            "first_attention_norm",
            "with post-norm, attention's norm comes after it",
        ),
        ({"layer_types": ["global", "local"]}, "window", "local layers, and they have no window; set it"),
        ({"window": 4}, "window", "no layer of layer_types is local"),
        ({"num_decoder_layers": 2, "causal": True}, "causal", "the encoder of an encoder-decoder sees both"),
        ({"num_decoder_layers": 2, "token_types": 2}, "token_types", "an encoder-decoder has none"),
    ],
)
def test_what_does_not_fit_is_named_with_the_arithmetic(keys: dict[str, Any], key: str, words: str) -> None:
    problems = list(config_of(**keys).problems())
    assert problems[0].key == key
    assert words in str(problems[0])
    with pytest.raises(ConfigError, match=f"model.{key}"):
        config_of(**keys).build()


def test_the_vocabulary_is_the_tokenizers_unless_the_config_has_a_larger_one() -> None:
    assert config_of(vocab_size=None).build(70).config.vocab_size == 70
    assert config_of(vocab_size=80).build(70).config.vocab_size == 80
    with pytest.raises(ConfigError, match="60 embeddings are too few for the tokenizer's 70 tokens"):
        config_of(vocab_size=60).build(70)
    with pytest.raises(ConfigError, match=r"model\.vocab_size"):
        config_of(vocab_size=None).build()


def test_a_sequence_beyond_the_learned_positions_names_both_lengths() -> None:
    model = model_of(position={"type": "learned", "max_length": 16})
    assert model.config.max_length == 16
    assert model(torch.zeros(1, 16, dtype=torch.int64)).logits.shape == (1, 16, 50)
    with pytest.raises(ModelError, match=r"17 tokens.* 16 positions"):
        model(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize("keys", [{}, {"head_transform": True}, {"scaled_head": True}], ids=str)
def test_the_loss_at_targets_is_that_of_the_full_logits(keys: dict[str, Any]) -> None:
    model = model_of(**keys, head_bias=True, norm_position="post", init_std=0.3).double()
    input_ids = torch.randint(50, (3, 9))
    labels = torch.where(torch.rand(3, 9) < 0.3, torch.randint(50, (3, 9)), NO_TARGET)
    full, some = model(input_ids), model(input_ids, labels=labels)
    assert some.logits.shape == (0, 50)
    wanted = F.cross_entropy(full.logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(some.loss, wanted, rtol=1e-12, atol=1e-12)
    at_targets = full.last_hidden_state[labels != NO_TARGET]
    torch.testing.assert_close(some.last_hidden_state, at_targets, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "keys",
    [
        {"norm_position": "post", "embedding_norm": True, "head_transform": True},
        {"causal": True, "gated_mlp": True},
        {"mlp": {"type": "mixture_of_experts", "num_experts": 3}},
        {"num_decoder_layers": 2},
    ],
    ids=str,
)
def test_gradients_of_the_loss_at_targets_are_those_of_the_full_logits(keys: dict[str, Any]) -> None:
    model = model_of(**keys, init_std=0.3).double()
    input_ids = torch.randint(50, (3, 9))
    documents = torch.tensor([[1] * 4 + [2] * 5, [1] * 9, [1] * 6 + [0] * 3])
    labels = torch.where((torch.rand(3, 9) < 0.4) & (documents > 0), torch.randint(50, (3, 9)), NO_TARGET)
    inputs = {"document_ids": documents}
    if model.config.num_decoder_layers:
        inputs |= {"decoder_input_ids": input_ids.flip(1), "decoder_document_ids": documents}
    found: list[list[torch.Tensor]] = []
    for with_labels in (True, False):
        model.zero_grad()
        if with_labels:
            loss = model(input_ids, **inputs, labels=labels).loss
        else:
            logits = model(input_ids, **inputs).logits
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_batch_without_targets_has_no_loss_and_still_reaches_every_parameter() -> None:
    model = model_of(head_transform=True, head_bias=True, token_types=2, embedding_norm=True)
    output = model(torch.randint(50, (2, 5)), labels=torch.full((2, 5), NO_TARGET))
    assert output.loss == 0
    (output.loss + output.last_hidden_state.sum() * 0).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_local_layers_reach_as_far_as_the_window_and_global_ones_further() -> None:
    for causal in (False, True):
        for types, reach in ((["local"], 3 * 2), (["local", "global"], 20)):
            model = model_of(causal=causal, layer_types=types, window=3, init_std=0.5).double()
            input_ids = torch.randint(50, (1, 20))
            changed = input_ids.clone()
            changed[0, 10] = (changed[0, 10] + 1) % 50
            moved = (model(input_ids).logits != model(changed).logits).any(-1)[0].nonzero()[:, 0]
            first = 10 if causal else max(0, 10 - reach)
            assert moved.tolist() == list(range(first, min(19, 10 + reach) + 1))


@torch.no_grad()
def test_local_layers_turn_by_their_own_wavelengths() -> None:
    position = {"type": "rotary", "theta": 100.0, "local_theta": 10.0}
    keys = {"layer_types": ["global", "local"], "window": 50, "init_std": 0.5}
    both, ids = model_of(position=position, **keys), torch.randint(50, (2, 9))
    alike = model_of(position={"type": "rotary", "theta": 100.0}, **keys)
    same = model_of(position={"type": "rotary", "theta": 100.0, "local_theta": 100.0}, **keys)
    assert not torch.equal(both(ids).logits, alike(ids).logits)
    assert torch.equal(same(ids).logits, alike(ids).logits)


@torch.no_grad()
def test_normalised_queries_and_keys_do_not_feel_the_scale_of_their_weights() -> None:
    for qk_norm in (False, True):
        keys = {"qk_norm": qk_norm, "norm": "rmsnorm", "norm_epsilon": 1e-12}
        model = model_of(**keys, init_std=0.5, bias=False).double()
        ids = torch.randint(50, (2, 9))
        before = model(ids).logits
        for block in model.trunk.blocks:
            block.attention.qkv.weight[: 2 * 24] *= 100
        assert torch.allclose(before, model(ids).logits, rtol=1e-4, atol=1e-6) == qk_norm


def test_positions_restart_at_every_document() -> None:
    model = model_of(position={"type": "learned", "max_length": 8}, init_std=0.3)
    input_ids = torch.randint(50, (2, 8))
    document_ids = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [1] * 8], dtype=torch.int32)
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 1], list(range(8))])
    derived = model(input_ids, document_ids=document_ids).logits
    stated = model(input_ids, document_ids=document_ids, position_ids=position_ids).logits
    assert torch.equal(derived, stated)


def test_the_first_attention_without_a_norm_reads_the_embedding_norm() -> None:
    model = model_of(embedding_norm=True, first_attention_norm=False, init_std=0.3)
    reads: list[torch.Tensor] = []
    written: list[torch.Tensor] = []
    for block in model.trunk.blocks:
        block.attention.register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0]))
    model.trunk.embedding_norm.register_forward_hook(lambda *call: written.append(call[-1]))
    model(torch.randint(50, (2, 8)))
    assert torch.equal(reads[0], written[0])
    torch.testing.assert_close(reads[1].mean(dim=-1), torch.zeros(2, 8), rtol=0, atol=1e-6)
    names = {name for name, _ in model_of(embedding_norm=True).named_parameters()}
    without = {name for name, _ in model.named_parameters()}
    first = "trunk.blocks.0.attention_norm"
    assert names - without == {f"{first}.weight", f"{first}.bias"}


def test_token_types_default_to_the_first_segment() -> None:
    model = model_of(token_types=2, init_std=0.3)
    input_ids = torch.randint(50, (2, 8))
    first = model(input_ids).logits
    assert torch.equal(first, model(input_ids, token_type_ids=torch.zeros_like(input_ids)).logits)
    assert not torch.equal(first, model(input_ids, token_type_ids=torch.ones_like(input_ids)).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_decoder_is_the_embedding_itself(tied: bool) -> None:
    model = model_of(tied_embeddings=tied)
    assert (model.head.decoder.weight is model.trunk.embedding.weight) == tied
    model = model.to(torch.bfloat16)
    assert (model.head.decoder.weight is model.trunk.embedding.weight) == tied


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_every_norm_keeps_dtype(dtype: torch.dtype, norm: str) -> None:
    model = model_of(norm=norm, gated_mlp=True, position={"type": "alibi"}).to(dtype)
    output = model(torch.randint(50, (2, 5)), document_ids=torch.tensor([[1, 1, 2, 2, 0]] * 2))
    assert output.logits.dtype == output.last_hidden_state.dtype == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not list(model.buffers())


@pytest.mark.parametrize("keys", [{}, {"qk_norm": True, "norm": "rmsnorm"}], ids=str)
def test_autocast_runs_with_a_mask(keys: dict[str, Any]) -> None:
    model = model_of(position={"type": "alibi"}, causal=True, **keys)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randint(50, (2, 5)), document_ids=torch.tensor([[1, 1, 2, 2, 0]] * 2))
    assert output.logits.dtype == torch.bfloat16
    assert output.logits.isfinite().all()


def test_first_weights_are_a_function_of_the_seed() -> None:
    first, again = model_of(), model_of()
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(1)
    assert not torch.equal(
        LanguageModel(config_of().build()).trunk.embedding.weight, first.trunk.embedding.weight
    )


def test_first_weights_have_the_stated_spread() -> None:
    model = model_of(hidden_size=128, num_layers=8, scaled_residual_init=True, init_std=0.05)
    block = model.trunk.blocks[3]
    assert block.mlp.up.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert block.attention.output.weight.std().item() == pytest.approx(0.05 / 4, rel=0.05)
    assert block.mlp.down.weight.std().item() == pytest.approx(0.05 / 4, rel=0.05)
    assert not block.mlp.down.bias.any()


def test_a_gated_mlp_multiplies_the_activated_gate_with_the_value() -> None:
    mlp = model_of(gated_mlp=True, activation="silu", intermediate_size=10).trunk.blocks[0].mlp
    x = torch.randn(2, 3, 24)
    gate, value = x @ mlp.up.weight[:10].T + mlp.up.bias[:10], x @ mlp.up.weight[10:].T + mlp.up.bias[10:]
    wanted = (gate * torch.sigmoid(gate) * value) @ mlp.down.weight.T + mlp.down.bias
    torch.testing.assert_close(mlp(x), wanted)


def test_models_and_hub_import_neither_transformers_nor_deepspeed() -> None:
    code = "import sys, lumbre.models, lumbre.hub\n"
    code += "sys.exit(not {'transformers', 'deepspeed'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("causal", [False, True])
def test_tokens_are_taken_out_within_the_last_block_or_after_it_and_learn_the_same(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(50, (3, 20), generator=torch.Generator().manual_seed(2))
    labels = torch.where(ids % 4 == 0, ids, NO_TARGET)
    found = []
    for few in (0.0, 1.1):
        monkeypatch.setattr(transformer, "FEW", few)
        model = model_of(causal=causal).double()
        narrowed: list[bool] = []
        model.trunk.blocks[-1].register_forward_hook(
            lambda _, given, hidden, narrowed=narrowed: narrowed.append(hidden.x_BTD.dim() == 2)
        )
        loss = model(ids, labels=labels).loss
        loss.backward()
        assert narrowed == [few > 1]
        found.append([loss.detach(), *(one.grad for one in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
