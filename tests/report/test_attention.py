"""Attention maps: what transformers' eager attention gives for the same folder and text, number by number."""

import base64

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers

from lumbre import hub
from lumbre.errors import ModelError
from lumbre.models.attention import recorded
from lumbre.report.attention import FINEST, MOST_TOKENS, attention_maps, maps_of, sample_text
from lumbre.report.run import read_runs

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "looked", "at", "it"]
TEXT = " ".join(WORDS)
SIZE = len(WORDS) + 1


def bert():
    config = transformers.BertConfig(
        vocab_size=SIZE, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20
    )
    return transformers.BertForMaskedLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=SIZE, n_embd=24, n_layer=3, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=SIZE,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=20,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config)


def t5():
    config = transformers.T5Config(
        vocab_size=SIZE, d_model=24, d_kv=8, d_ff=20, num_layers=2, num_decoder_layers=3, num_heads=3
    )
    return transformers.T5ForConditionalGeneration(config)


@pytest.fixture(params=[bert, gpt2, llama, t5])
def theirs(request):
    torch.manual_seed(1)
    model = request.param()
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from uniform: untrained weights would look at everything alike.
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def save(model, folder):
    model.save_pretrained(folder)
    words = {word: number for number, word in enumerate(["<pad>", *WORDS])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    fast.save_pretrained(folder)
    return folder


def expected(model, ids_BT):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            out = model(input_ids=ids_BT, decoder_input_ids=ids_BT, output_attentions=True)
            return [out.encoder_attentions, out.decoder_attentions, out.cross_attentions]
        return [model(input_ids=ids_BT, output_attentions=True).attentions]


def test_maps_are_the_weights_that_transformers_computes(theirs, tmp_path):
    maps, cut = attention_maps(save(theirs, tmp_path / "model"), TEXT)
    ids_BT = torch.arange(1, SIZE)[None]
    assert not cut
    for ours, wanted in zip(maps, expected(theirs, ids_BT), strict=True):
        assert ours.queries == ours.keys == WORDS
        assert len(ours.layers) == len(wanted)
        for layer, other in zip(ours.layers, wanted, strict=True):
            torch.testing.assert_close(layer, other[0], rtol=1e-4, atol=1e-6)
        assert max(layer.amax() for layer in ours.layers) > 0.5


def test_in_float64_they_agree_to_the_last_digits(theirs, tmp_path):
    trunk = hub.load_trunk(save(theirs, tmp_path / "model")).double().eval()
    ids_BT = torch.arange(1, SIZE)[None]
    decoder = {"decoder_input_ids": ids_BT} if theirs.config.is_encoder_decoder else {}
    with torch.no_grad(), recorded(trunk) as weights:
        trunk(ids_BT, **decoder)
    wanted = [layer for kind in expected(theirs.double(), ids_BT) for layer in kind]
    # The decoder's own attention and its look at the encoder take turns in a forward pass.
    names = sorted(weights, key=lambda name: (name.startswith("decoder"), "cross" in name))
    # Of llama the table of angles, of T5 the softmax is float32's whatever the model is.
    tolerance = 1e-5 if theirs.config.model_type in ("llama", "t5") else 1e-12
    for name, other in zip(names, wanted, strict=True):
        torch.testing.assert_close(weights[name], other, rtol=0, atol=tolerance)


def test_looking_changes_nothing_and_leaves_nothing_behind(tmp_path):
    torch.manual_seed(1)
    trunk = hub.load_trunk(save(t5().eval(), tmp_path / "model")).eval()
    ids_BT = torch.arange(1, SIZE)[None]
    with torch.no_grad():
        before = trunk(ids_BT, decoder_input_ids=ids_BT).x_BTD
        with recorded(trunk):
            during = trunk(ids_BT, decoder_input_ids=ids_BT).x_BTD
        after = trunk(ids_BT, decoder_input_ids=ids_BT).x_BTD
    torch.testing.assert_close(during, before)
    assert torch.equal(after, before)
    assert not any(module._forward_pre_hooks for module in trunk.modules())
    assert {trunk.encoder.attention_kernel, trunk.decoder.attention_kernel} == {"auto"}


def test_the_page_gets_each_weight_to_two_bytes_and_a_long_text_is_cut(tmp_path):
    torch.manual_seed(1)
    model = bert().eval()
    (maps,), cut = attention_maps(save(model, tmp_path / "model"), " ".join(WORDS * 20))
    assert cut
    assert len(maps.keys) == MOST_TOKENS
    packed = maps.packed()
    whole = np.frombuffer(base64.b64decode(packed["weights"]), "<u2").reshape(2, 3, MOST_TOKENS, MOST_TOKENS)
    np.testing.assert_allclose(whole / FINEST, torch.stack(maps.layers), atol=0.51 / FINEST)


def test_a_run_without_a_model_says_how_to_make_one(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1")
    (run,) = read_runs([tmp_path])
    maps, remark = maps_of(run, TEXT)
    assert maps == []
    assert f"`lumbre export {tmp_path} --to {tmp_path / 'model'}` makes one" in remark
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "clip"}')
    assert "supported are" in maps_of(run, TEXT)[1]


def test_a_model_without_a_tokenizer_is_explained(tmp_path):
    bert().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="tokenizer"):
        attention_maps(tmp_path / "model", TEXT)


def test_the_text_is_the_latest_sample_prompt_where_none_is_given(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "samples": [{"prompt": "Once upon", "text": "a"}]}\n'
    )
    assert sample_text(read_runs([tmp_path])) == "Once upon"
