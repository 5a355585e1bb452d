"""`lumbre generate`: completions, answers and fills are the model's own, and what does not fit is refused."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from lumbre import cli, hub
from lumbre import generate as module
from lumbre.errors import ModelError
from lumbre.generate import Sampling, generate
from lumbre.models import Detector, LanguageModel, PairModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, Tokenizer, WordPieceConfig

LENGTH = 48
TEXTS = ["import json", "import torch", "def save(model, folder):", "def load(folder):"] * 2
SHORT = Sampling(max_new_tokens=8)
SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
KINDS: dict[str, dict[str, Any]] = {
    "decoder": {"causal": True, "position": {"type": "learned", "max_length": LENGTH}},
    "own decoder": {"causal": True, "position": {"type": "alibi"}},
    "decoder of words": {"causal": True, "position": {"type": "rotary"}},
    "encoder": {
        "causal": False,
        "head_transform": True,
        "position": {"type": "rotary", "max_length": LENGTH},
    },
    "both": {"causal": False, "num_decoder_layers": 2, "position": {"type": "sinusoidal"}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return run folders, each with a model of another kind."""
    bpe, wordpiece = (kind.model_validate({}).build(TEXTS) for kind in (BpeConfig, WordPieceConfig))
    tokenizers = {"encoder": wordpiece, "decoder of words": wordpiece}
    return {
        name: save(keys, tokenizers.get(name, bpe), tmp_path_factory.mktemp("run"))
        for name, keys in KINDS.items()
    }


def save(keys: dict[str, Any], tokenizer: Tokenizer, run: Path) -> Path:
    torch.manual_seed(0)
    model = LanguageModel(TransformerConfig.model_validate(SIZES | keys).build(tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = hub.save(model, tokenizer, run / "model")
    config = json.loads((folder / "config.json").read_text())
    if "num_decoder_layers" in keys:
        config["decoder_start_token_id"] = tokenizer.pad_id
    (folder / "config.json").write_text(json.dumps(config))
    return run


def greedy(folder: Path, ids: Sequence[int], count: int) -> list[int]:
    """Return so many likeliest tokens after `ids`, by our own model."""
    model, row = hub.load(folder).eval(), list(ids)
    for _ in range(count):
        row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
    return row[len(ids) :]


@pytest.mark.parametrize("name", ["decoder", "own decoder", "decoder of words"])
def test_a_decoder_goes_on_with_the_likeliest_tokens(
    name: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = generate(folders[name], ["def save("], SHORT)
    tokenizer = Tokenizer.load(folders[name] / "model")
    ids = tokenizer.encode_batch(["def save("])[0][:-1].tolist()
    wanted = greedy(folders[name] / "model", ids, 8)
    if tokenizer.eos_id is not None and tokenizer.eos_id in wanted:
        wanted = wanted[: wanted.index(tokenizer.eos_id)]
    assert text == tokenizer.decode(wanted)
    assert "def save(" + text in capsys.readouterr().out
    samples = json.loads((folders[name] / "samples.json").read_text())
    assert samples == [{"prompt": "def save(", "text": text}]


def test_draws_are_a_function_of_the_seed_and_the_prompt(folders: dict[str, Path]) -> None:
    drawn = replace(SHORT, temperature=1.5, top_k=0, top_p=0.99)
    texts = generate(folders["decoder"], ["import json", "def f", "import json"], drawn)
    assert texts[0] == texts[2]
    assert generate(folders["decoder"], ["import json"], drawn) == texts[:1]
    assert generate(folders["decoder"], ["import json"], replace(drawn, seed=2)) != texts[:1]
    assert generate(folders["decoder"], ["import json"], replace(drawn, top_k=1)) == generate(
        folders["decoder"], ["import json"], SHORT
    )


def test_an_empty_prompt_begins_a_text(folders: dict[str, Path]) -> None:
    (text,) = generate(folders["decoder"], [""], SHORT)
    tokenizer = Tokenizer.load(folders["decoder"] / "model")
    assert tokenizer.eos_id is not None
    assert text == tokenizer.decode(greedy(folders["decoder"] / "model", [tokenizer.eos_id], 8))


def test_an_encoder_decoder_answers(folders: dict[str, Path]) -> None:
    folder = folders["both"] / "model"
    single, text = (generate(folders["both"], ["import torch"], replace(SHORT, beams=n))[0] for n in (1, 4))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids_BT = torch.tensor([[*tokenizer("import torch")["input_ids"], tokenizer.eos_token_id]])
    for beams, found in ((1, single), (4, text)):
        out_BT = model.generate(ids_BT, max_new_tokens=8, num_beams=beams, do_sample=False)
        assert found == tokenizer.decode(out_BT[0], skip_special_tokens=True).strip()
    assert text != single
    (sample,) = json.loads((folders["both"] / "samples.json").read_text())
    assert sample == {"prompt": "import torch", "text": "\n" + text}


def test_an_encoder_fills_each_mask_with_the_five_likeliest(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = generate(folders["encoder"], ["import <mask> def [MASK]"], SHORT)
    tokenizer = Tokenizer.load(folders["encoder"] / "model")
    plain = tokenizer.encode_batch(["import", "def"])
    (cls, *one, sep), (_, *two, _) = (ids.tolist() for ids in plain)
    row = torch.tensor([[cls, *one, tokenizer.mask_id, *two, tokenizer.mask_id, sep]])
    shares = hub.load(folders["encoder"] / "model")(row).logits[0].softmax(-1)
    masks = (row[0] == tokenizer.mask_id).nonzero().flatten()
    wanted = [
        (tokenizer.backend.id_to_token(int(one)), f"{share:.1%}")
        for at in masks
        for share, one in zip(*shares[at].topk(5), strict=True)
    ]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "import [MASK] def [MASK]"
    found = [re.findall(r"(?:^  [12 ]  )(\S+) +(\S+%)", line) for line in lines[1:11]]
    assert [pair for pairs in found for pair in pairs] == wanted
    assert text == f"import {wanted[0][0].removeprefix('##')} def {wanted[5][0].removeprefix('##')}"
    (sample,) = json.loads((folders["encoder"] / "samples.json").read_text())
    assert sample == {"prompt": "import <mask> def [MASK]", "text": "\n" + text}


def test_a_prompt_without_a_mask_is_refused_with_the_mask_to_write(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"'import torch' has none; write \[MASK\]"):
        generate(folders["encoder"], ["import torch"], SHORT)


def test_what_does_not_fit_the_positions_is_refused_with_what_would(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=rf"{LENGTH} positions; use --max-new-tokens (\d+)") as caught:
        generate(folders["decoder"], ["import torch"], replace(SHORT, max_new_tokens=LENGTH))
    found = re.search(r"tokens (\d+)$", str(caught.value))
    assert found
    generate(folders["decoder"], ["import torch"], replace(SHORT, max_new_tokens=int(found[1])))
    for name in ("decoder", "encoder"):
        with pytest.raises(ModelError, match=f"{LENGTH} positions; shorten the prompt"):
            generate(folders[name], ["import [MASK] " * LENGTH], SHORT)


def test_a_pickle_of_tensors_is_read_and_one_that_runs_code_is_not(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    source = folders["decoder"] / "model"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((source / name).read_text())
    weights = transformers.AutoModelForCausalLM.from_pretrained(source).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert generate(tmp_path, ["import"], SHORT) == generate(source, ["import"], SHORT)
    assert not (tmp_path / "samples.json").exists()
    torch.save({**weights, "more": Sampling()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle that holds more than tensors"):
        generate(tmp_path, ["import"], SHORT)


def test_folders_of_other_families_speak_too(folders: dict[str, Path], tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=512, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=LENGTH,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folders["both"] / "model" / name).read_text())
    assert len(generate(tmp_path, ["import torch"], SHORT)) == 1


def test_a_folder_without_a_language_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["encoder"] / "model"
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    classifier.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no tokenizer that can be read"):
        generate(tmp_path, ["[MASK]"], SHORT)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"it lacks head\.dense\.bias and 3 more"):
        generate(tmp_path, ["[MASK]"], SHORT)
    with pytest.raises(ModelError, match="neither a finished run nor a model folder"):
        generate(tmp_path / "none", ["[MASK]"], SHORT)


BERT: dict[str, Any] = {
    "causal": False,
    "norm_position": "post",
    "embedding_norm": True,
    "head_transform": True,
    "head_bias": True,
    "token_types": 2,
    "position": {"type": "learned", "max_length": LENGTH},
}


@pytest.mark.parametrize("position", [BERT["position"], {"type": "rotary"}])
def test_a_detector_is_refused_and_its_generator_named(position: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = WordPieceConfig().build(TEXTS)
    config = TransformerConfig.model_validate({**SIZES, **BERT, "position": position})
    hub.save(Detector(config.build(tokenizer.vocab_size)), tokenizer, tmp_path / "model")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"has no language-model head; name a folder with one"):
        generate(tmp_path, ["[MASK]"], SHORT)
    generator = LanguageModel(config.build(tokenizer.vocab_size))
    hub.save(generator, tokenizer, tmp_path / "model-generator")
    with pytest.raises(ModelError, match=r"its generator, which has one, is .*model-generator"):
        generate(tmp_path, ["[MASK]"], SHORT)
    assert len(generate(tmp_path / "model-generator", ["[MASK]"], SHORT)) == 1


def test_a_model_of_pairs_fills_masks_with_its_language_model(tmp_path: Path) -> None:
    tokenizer = WordPieceConfig().build(TEXTS)
    trunk = TransformerConfig.model_validate({**SIZES, **BERT, "init_std": 0.3}).build(tokenizer.vocab_size)
    model = PairModel(trunk)  # type: ignore[arg-type]
    hub.save(model, tokenizer, tmp_path)
    (text,) = generate(tmp_path, ["import [MASK]"], SHORT)
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path)("import [MASK]")["input_ids"]
    likeliest = model.eval()(torch.tensor([ids])).logits[0, ids.index(tokenizer.mask_id)].argmax()
    assert text == f"import {tokenizer.decode([likeliest], skip_special_tokens=False).removeprefix('##')}"


def test_the_commands_options_are_the_samplings(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(module, "generate", lambda *arguments: given.append(arguments))
    options = ["--max-new-tokens=5", "--temperature=0.5", "--top-k=7", "--top-p=0.8", "--beams=2", "--seed=9"]
    for more in (options, []):
        result = CliRunner().invoke(cli.app, ["generate", "runs/x", "--prompt", "a", "--prompt", "b", *more])
        assert result.exit_code == 0
    assert given[0] == (Path("runs/x"), ["a", "b"], Sampling(5, 0.5, 7, 0.8, 2, 9))
    assert given[1][2] == Sampling()
