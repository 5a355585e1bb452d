"""Model folders: whole or absent, read back as written, and proven against transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lumbre import hub
from lumbre.errors import ModelError, UserError
from lumbre.hub.verify import _compare as compare
from lumbre.models import PositionConfig
from lumbre.tokenizer import BpeConfig, Tokenizer, WordPieceConfig
from tests.hub.shipped import shipped

FAMILIES = {
    "bert-tiny": "BertForMaskedLM",
    "gpt-tiny": "GPT2LMHeadModel",
    "llama-tiny": "LlamaForCausalLM",
    "modernbert-tiny": "ModernBertForMaskedLM",
    "roberta-base": "RobertaForMaskedLM",
    "modernbert-base": "ModernBertForMaskedLM",
    "llama3.2-1b": "LlamaForCausalLM",
    "qwen3-0.6b": "Qwen3ForCausalLM",
    "t5-small": "T5ForConditionalGeneration",
    "t5-v1.1-small": "T5ForConditionalGeneration",
    "encoder-rotary-tiny": None,
    "mixture-tiny": None,
    "transformer-base": None,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BpeConfig.model_validate({"vocab_size": 512}).build([Path(__file__).read_text()])


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return WordPieceConfig.model_validate({"vocab_size": 512}).build([Path(__file__).read_text()])


@pytest.mark.parametrize("name", FAMILIES)
def test_export_is_proven_for_each_family(name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = shipped(name)
    adapter = hub.adapter_for(model.config)
    assert (adapter.architecture if adapter else None) == FAMILIES[name]
    remark = "It was made for this test."
    folder = hub.save(model, tokenizer, tmp_path / "runs" / "model", remark=remark)
    assert (
        hub.verify_export(model, folder) <= 1e-3
    )  # it raises by law 6, which knows how large the logits are
    names = {path.name for path in folder.iterdir()}
    wanted = {"config.json", "model.safetensors", "README.md", "tokenizer.json", "tokenizer_config.json"}
    assert names == wanted
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert transformers.AutoTokenizer.from_pretrained(folder).vocab_size <= 512 if adapter else True
    card = (folder / "README.md").read_text()
    assert ("needs Lumbre" in card) == (adapter is None)
    assert card.endswith(f"\n\n{remark}\n")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_is_read_back_as_it_was_written(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = shipped(name).to(dtype)
    before = torch.get_rng_state()
    again = hub.load(hub.save(model, None, tmp_path / "model"))
    assert torch.equal(before, torch.get_rng_state())
    state, found = model.state_dict(), again.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[key], found[key]) and found[key].dtype == dtype for key in state)
    tied = again.head.decoder.weight is again.trunk.embedding.weight
    assert tied == model.config.tied_embeddings
    assert dict(again.named_parameters()).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("kind", sorted(PositionConfig.members))
@pytest.mark.parametrize("causal", [False, True])
def test_every_position_encoding_is_exported(kind: str, causal: bool, tmp_path: Path) -> None:
    keys = {"type": kind} | ({"max_length": 24} if kind == "learned" else {})
    position = PositionConfig.model_validate(keys)
    model = shipped("encoder-rotary-tiny", position=position, causal=causal, tied_embeddings=False)
    folder = hub.save(model, None, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "lumbre"
    assert hub.verify_export(model, folder) <= 1e-5


def test_special_tokens_are_stated_in_the_config(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = hub.save(shipped("gpt-tiny"), tokenizer, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert config.dtype == torch.float32


def test_a_modernbert_folder_states_its_tokens_and_takes_no_token_types(
    tmp_path: Path, wordpiece: Tokenizer
) -> None:
    folder = hub.save(shipped("modernbert-tiny"), wordpiece, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(folder)
    found = (config.pad_token_id, config.cls_token_id, config.sep_token_id)
    assert found == (wordpiece.pad_id, wordpiece.cls_id, wordpiece.sep_id)
    assert (config.bos_token_id, config.eos_token_id) == (None, None)
    encoded = transformers.AutoTokenizer.from_pretrained(folder)("one", "two")
    assert set(encoded) == {"input_ids", "attention_mask"}


def test_plain_transformers_classifies_with_a_modernbert_folder(tmp_path: Path, wordpiece: Tokenizer) -> None:
    model = shipped("modernbert-tiny")
    folder = hub.save(model, wordpiece, tmp_path / "model")
    encode = transformers.AutoTokenizer.from_pretrained(folder)
    batch = encode(["def load", "import the whole model"], return_tensors="pt", padding=True)
    trunk = model.trunk(batch["input_ids"], batch["attention_mask"]).x_BTD
    logits = []
    for kernel in ("sdpa", "eager"):
        torch.manual_seed(0)
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=3, attn_implementation=kernel
        )
        hidden = classifier.model(**batch).last_hidden_state
        kept = batch["attention_mask"] != 0
        torch.testing.assert_close(hidden[kept], trunk[kept], rtol=1e-5, atol=1e-5)
        assert torch.equal(classifier.head.dense.weight, model.head.dense.weight)
        output = classifier(**batch, labels=torch.tensor([0, 2]))
        output.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())
        logits.append(output.logits)
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)


def test_a_fresh_modernbert_classifier_starts_with_the_exported_spread(tmp_path: Path) -> None:
    folder = hub.save(shipped("modernbert-tiny"), None, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    fresh = transformers.AutoModelForSequenceClassification.from_config(config)
    cut = 0.88  # the spread that is left of a normal cut off at two standard deviations
    for layer in fresh.model.layers:
        assert layer.attn.Wqkv.weight.std().item() == pytest.approx(cut * 0.05, rel=0.05)
        assert layer.mlp.Wi.weight.std().item() == pytest.approx(cut * 0.05, rel=0.05)
        assert layer.mlp.Wo.weight.std().item() == pytest.approx(cut * 0.05 / 2, rel=0.05)
    assert fresh.model.embeddings.tok_embeddings.weight.std().item() == pytest.approx(cut * 0.05, rel=0.05)
    assert fresh.classifier.weight.std().item() == pytest.approx(cut * 128**-0.5, rel=0.15)
    assert not fresh.classifier.bias.any()


def test_changed_weights_do_not_pass_the_proof(tmp_path: Path) -> None:
    model = shipped("gpt-tiny")
    folder = hub.save(model, None, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    state["transformer.h.1.mlp.c_proj.bias"][3] += 0.01
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="computes other logits"):
        hub.verify_export(model, folder)
    state["transformer.extra.weight"] = torch.ones(2)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="unexpected keys"):
        hub.verify_export(model, folder)


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": null}', '{"weight_map": {"a": 3}}', "{"])
def test_a_damaged_index_is_named(text: str, tmp_path: Path) -> None:
    folder = hub.save(shipped("gpt-tiny"), None, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"index\.json: (weight_map|is not JSON)"):
        hub.load(folder)


@pytest.mark.parametrize("content", [b"hello", b"", b"version https://git-lfs", bytes(900)])
def test_a_damaged_pickle_is_called_so(content: bytes, tmp_path: Path) -> None:
    folder = hub.save(shipped("gpt-tiny"), None, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: damaged or unreadable"):
        hub.load(folder)


def test_a_failed_proof_leaves_the_older_model(tmp_path: Path) -> None:
    folder = hub.save(shipped("gpt-tiny"), None, tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()

    def refuse(fresh: Path) -> None:
        raise ModelError(f"{fresh.name} is wrong")

    with pytest.raises(ModelError, match="is wrong"):
        hub.save(shipped("bert-tiny"), None, folder, proof=refuse)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_a_difference_that_rounding_explains_is_let_through(tmp_path: Path) -> None:
    """Large unscaled scores: where float32 itself is off by more than the bound, so may two models be."""
    ours = torch.ones(3, 5)
    theirs = ours + 5e-5
    off = (ours.double() - 4e-5).float
    assert compare(tmp_path, 3, ours, theirs, off) == pytest.approx(5e-5, rel=0.01)
    with pytest.raises(ModelError, match="computes other logits"):
        compare(tmp_path, 3, ours, theirs, ours.double)
    with pytest.raises(ModelError, match="computes other logits"):
        compare(tmp_path, 3, ours, ours + 9e-5, off)


def test_an_older_model_is_replaced_and_anything_else_is_kept(tmp_path: Path) -> None:
    first, second = shipped("gpt-tiny"), shipped("bert-tiny")
    folder = hub.save(first, None, tmp_path / "model")
    hub.save(second, None, folder)
    assert hub.load(folder).config.causal == second.config.causal
    hub.save(first, None, tmp_path / "empty")
    (folder / "notes").mkdir()
    with pytest.raises(ModelError, match="holds notes, which is no part of a model"):
        hub.save(first, None, folder)
    assert hub.load(folder).config.causal == second.config.causal
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "diary.txt").write_text("dear")
    with pytest.raises(ModelError, match=r"diary\.txt"):
        hub.save(first, None, precious)
    assert (precious / "diary.txt").read_text() == "dear"


def test_a_failing_save_leaves_the_older_model_whole(tmp_path: Path) -> None:
    class Failing:
        pad_id = bos_id = eos_id = cls_id = sep_id = None

        def save(self, folder: Path, **_: Any) -> None:
            raise OSError(28, "No space left on device")

    first, second = shipped("gpt-tiny"), shipped("bert-tiny")
    folder = hub.save(first, None, tmp_path / "model")
    with pytest.raises(UserError, match="disk is full"):
        hub.save(second, Failing(), folder)
    assert hub.load(folder).config.causal == first.config.causal
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def rewrite(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))


@pytest.mark.parametrize("name", ["bert-tiny", "encoder-rotary-tiny"])
def test_missing_extra_and_misshapen_tensors_are_named(name: str, tmp_path: Path) -> None:
    folder = hub.save(shipped(name), None, tmp_path / "model")
    file = folder / "model.safetensors"
    whole = load_file(file)
    victim = sorted(whole)[3]
    save_file({key: whole[key] for key in whole if key != victim}, file)
    with pytest.raises(ModelError, match=f"{victim} is missing"):
        hub.load(folder)
    save_file({**whole, "bert.adapter": torch.ones(2)}, file)
    with pytest.raises(ModelError, match=r"bert\.adapter is not part of"):
        hub.load(folder)
    save_file({**whole, victim: torch.ones(2, 3)}, file)
    with pytest.raises(ModelError, match=rf"{victim} is \(2, 3\), \(\d+.*\) is expected"):
        hub.load(folder)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ModelError, match="damaged or unreadable"):
        hub.load(folder)


def test_bad_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        hub.load(tmp_path)
    folder = hub.save(shipped("gpt-tiny"), None, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: damaged or unreadable"):
        hub.load(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: no such file"):
        hub.load(folder)
    rewrite(folder, model_type="mamba")
    with pytest.raises(
        ModelError, match="'mamba'; supported are bert, electra, gpt2, llama, lumbre, modernbert, qwen3, rob"
    ):
        hub.load(folder)
    rewrite(folder, model_type="lumbre", transformer={"type": "transformer", "causal": True})
    with pytest.raises(ModelError, match=r"transformer\.hidden_size: Field required"):
        hub.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        hub.load(folder)


def test_sharded_weights_of_transformers_are_read(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=300, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    model = hub.load(tmp_path)
    input_ids = torch.randint(300, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids).logits, theirs(input_ids).logits, rtol=1e-5, atol=1e-5)
