"""Pretraining that starts from a model folder, and what such a folder may hold."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from lumbre import config as configs
from lumbre import hub
from lumbre.errors import ModelError
from lumbre.models import LanguageModel, ModelConfig
from lumbre.models.deferred import deferring

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 9}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=37, **SIZES)).save_pretrained(folder)
    return folder


def config_of(path: Path, **keys: Any) -> ModelConfig:
    return ModelConfig.model_validate({"type": "huggingface", "path": str(path), **keys})


def started(config: ModelConfig) -> LanguageModel:
    model = LanguageModel(config.build(30))
    config.initialise(model)
    return model


@torch.no_grad()
def test_training_starts_from_the_folders_weights(bert: Path) -> None:
    ids = torch.randint(37, (2, 11))
    theirs = transformers.BertForMaskedLM.from_pretrained(bert).eval()
    torch.testing.assert_close(started(config_of(bert))(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_new_head_leaves_the_trunk_as_it_was(bert: Path, tmp_path: Path) -> None:
    ids = torch.randint(37, (2, 11))
    theirs = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no language-model head.*model\.new_head: true"):
        started(config_of(tmp_path))
    for folder in (bert, tmp_path):
        model = started(config_of(folder, new_head=True))
        wanted = theirs(ids).last_hidden_state
        torch.testing.assert_close(model(ids).last_hidden_state, wanted, rtol=1e-5, atol=1e-6)
        assert model.head.decoder.weight is model.trunk.embedding.weight


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_start_that_is_read_later_is_the_same_start(family: str, new_head: bool, tmp_path: Path) -> None:
    """Stage 3 and shared matrices build the model without weights, and read them one by one."""
    torch.manual_seed(3)
    sizes = {"vocab_size": 37, "hidden_size": 12, "intermediate_size": 20}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    theirs: Any = {
        "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=37, **SIZES)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=37, n_embd=12, n_layer=2, n_head=2, n_positions=16)
        ),
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **layers)),
    }[family]()
    theirs.save_pretrained(tmp_path)
    config = config_of(tmp_path, new_head=new_head)
    torch.manual_seed(5)
    plain, after = started(config), torch.rand(3)
    torch.manual_seed(5)
    with deferring() as deferred:
        model = LanguageModel(config.build(30))
    config.initialise(model, deferred=deferred)
    assert all(one.is_meta for one in model.parameters())
    for parameter in deferred.settle(model):
        parameter.data = parameter.data.clone()
    assert torch.equal(torch.rand(3), after)
    for name, parameter in plain.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


def test_dropout_that_is_left_out_is_stated(bert: Path) -> None:
    config = config_of(bert)
    assert config.left_out() == {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def test_our_own_folders_are_started_from_too(tmp_path: Path) -> None:
    shipped = configs.load(ModelConfig, "configs/model/encoder-rotary-tiny.yaml", room="model")
    model = LanguageModel(shipped.build(40))
    hub.save(model, None, tmp_path / "model")
    again = started(config_of(tmp_path / "model"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    trunk = hub.load_trunk(tmp_path / "model")
    assert torch.equal(trunk.embedding.weight, model.trunk.embedding.weight)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "cannot be read"),
        ({"config.json": "{"}, "is not JSON"),
        ({"config.json": '{"model_type": "mamba"}'}, "model_type is 'mamba'"),
        ({"config.json": '{"model_type": "bert", "is_decoder": true}'}, "is_decoder is True"),
        ({"config.json": '{"model_type": "bert", "hidden_size": "wide"}'}, "BertForMaskedLM cannot be made"),
        (
            {"config.json": '{"model_type": "bert", "hidden_size": 10, "num_attention_heads": 3}'},
            "3 heads do not divide hidden_size 10",
        ),
        (
            {"config.json": '{"model_type": "bert", "quantization_config": {"bits": 4}}'},
            "quantization_config",
        ),
        ({"config.json": '{"model_type": "roberta", "pad_token_id": null}'}, "pad_token_id is null"),
    ],
)
def test_a_folder_that_we_cannot_read_is_a_config_error(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (problem,) = config_of(tmp_path).all_problems("model.")
    assert problem.key == "model.path"
    assert words in problem.fault


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
@torch.no_grad()
def test_a_t5_head_is_tied_and_scaled_as_its_weights_say(kind: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 37, "d_model": 12, "d_kv": 4, "num_heads": 3, "d_ff": 9, "num_layers": 1}
    for tied in (True, False):
        config = transformers.T5Config(**sizes, feed_forward_proj=kind, tie_word_embeddings=tied)
        theirs = transformers.T5ForConditionalGeneration(config).eval()
        theirs.save_pretrained(tmp_path / str(tied))
        ours = hub.load(tmp_path / str(tied)).eval()
        ids = torch.randint(1, 37, (2, 7))
        wanted = theirs(input_ids=ids, decoder_input_ids=ids).logits
        torch.testing.assert_close(ours(ids, decoder_input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)
        folder = hub.save(ours, None, tmp_path / "again")
        assert hub.verify_export(ours, folder) <= 1e-4


def test_a_table_of_positions_longer_than_stated_is_refused(tmp_path: Path) -> None:
    theirs = transformers.RobertaForMaskedLM(transformers.RobertaConfig(vocab_size=37, **SIZES))
    theirs.save_pretrained(tmp_path)
    state = theirs.state_dict()
    name = "roberta.embeddings.position_embeddings.weight"
    state = {key: value.clone() for key, value in state.items() if "decoder" not in key}
    state[name] = torch.cat([state[name], torch.zeros(40, 12)])
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"position_embeddings\.weight is \(552, 12\), \(512, 12\)"):
        hub.load(tmp_path)


def test_a_pickle_of_tensors_is_read_and_one_that_runs_code_is_not(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    theirs = transformers.BertForMaskedLM.from_pretrained(bert)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    found = hub.load(tmp_path).trunk.embedding.weight
    assert torch.equal(found, theirs.bert.embeddings.word_embeddings.weight)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: a pickle that holds more than tensors"):
        hub.load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        hub.load(tmp_path)
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds no state dict"):
        hub.load(tmp_path)
