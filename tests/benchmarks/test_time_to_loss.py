"""The benchmark of time to a loss: the same text, rows, masks and measure for both, and models that fit."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from benchmarks.time_to_loss import summary, turns
from benchmarks.to_loss import shakespeare, wikitext
from benchmarks.to_loss.evaluator import NO_TARGET, masked, mean_loss, unigram_loss, windows
from benchmarks.to_loss.process import run
from lumbre import config as configs
from lumbre.models.flops import parameter_count
from pretrain.config import PretrainConfig

ROOT = Path(__file__).parents[2]
NANOGPT = 4 * (12 * 128**2 + 2 * 128) + 128 + 65 * 128 + 64 * 128
"""The parameters of its CPU setting: blocks, the last norm, tokens, positions."""


def shipped(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    for name in ("tinyshakespeare", "wikitext2"):
        (tmp_path / name).mkdir()
        for part in ("train", "valid"):
            (tmp_path / name / f"{part}.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    return configs.load(PretrainConfig, str(file), room="pretrain")


def test_our_decoder_of_characters_has_no_more_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shipped(shakespeare.CONFIG, tmp_path, monkeypatch)
    special = len(config.tokenizer.special_names)
    assert parameter_count(config.model.sized(65 + special)) <= NANOGPT


@pytest.mark.parametrize("name", sorted(wikitext.SETTINGS))
def test_our_models_of_wikitext_have_no_more_parameters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = wikitext.SETTINGS[name]
    ours = parameter_count(shipped(setting.config, tmp_path, monkeypatch).model.sized(8192))
    sizes = dict(setting.hf_config)
    theirs = transformers.AutoConfig.for_model(
        sizes.pop("model_type"), **sizes, vocab_size=8192, pad_token_id=0
    )
    kind = {"bert": transformers.AutoModelForMaskedLM, "gpt": transformers.AutoModelForCausalLM}[setting.kind]
    with torch.device("meta"):
        count = sum(one.numel() for one in kind.from_config(theirs).parameters())
    assert 0.95 * count < ours <= count
    assert 9.5e6 < count < 10.5e6


def test_the_text_is_cut_where_nanogpt_cuts_it() -> None:
    text = "".join(chr(33 + number % 90) for number in range(1115394))
    train, validation = shakespeare.parts(text)
    assert (len(train), len(validation)) == (1003854, 111540)
    assert train + validation == text


def test_nanogpt_s_estimates_are_read_with_their_seconds() -> None:
    lines = [
        (1.0, "number of parameters: 0.80M"),
        (2.0, "step 0: train loss 4.1676, val loss 4.1649"),
        (2.5, "iter 0: loss 4.1676, time 3.00ms, mfu -100.00%"),
        (9.0, "step 250: train loss 1.4293, val loss 1.8447"),
    ]
    assert shakespeare.said(lines) == [(2.0, 4.1649), (9.0, 1.8447)]


def test_the_loss_is_the_mean_over_all_targets() -> None:
    torch.manual_seed(1)
    inputs, labels = torch.randint(7, (150, 5)), torch.randint(7, (150, 5))
    labels[::3, 1:4] = NO_TARGET
    table = torch.randn(7, 7)
    found = mean_loss(lambda tokens: table[tokens], inputs.numpy(), labels.numpy())
    losses = F.cross_entropy(table[inputs].flatten(0, 1), labels.flatten(), reduction="none")
    assert found == pytest.approx(float(losses[labels.flatten() != NO_TARGET].mean()), rel=1e-5)


@pytest.mark.parametrize("count", [65, 128, 129, 300])
def test_windows_have_each_token_s_next_one(count: int) -> None:
    tokens = np.arange(count)
    inputs, labels = windows(tokens, 64)
    assert inputs.shape == labels.shape == ((count - 1) // 64, 64)
    assert (labels == inputs + 1).all()
    assert (inputs.flatten() == np.arange(inputs.size)).all()


def test_masks_are_bert_s_and_always_the_same() -> None:
    ordinary = np.arange(5, 1000)
    tokens = np.random.default_rng(1).integers(0, 1000, 100_000)
    inputs, labels = masked(tokens, 100, 4, ordinary)
    assert all(
        (a == b).all() for a, b in zip(masked(tokens, 100, 4, ordinary), (inputs, labels), strict=True)
    )
    rows = tokens.reshape(-1, 100)
    targets = labels != NO_TARGET
    assert (labels[targets] == rows[targets]).all()
    assert (inputs[~targets] == rows[~targets]).all()
    assert not np.isin(labels[targets], np.arange(5)).any()
    assert targets.mean() == pytest.approx(0.15 * len(ordinary) / 1000, abs=0.005)
    kept = inputs[targets] == rows[targets]
    assert (inputs[targets] == 4).mean() == pytest.approx(0.8, abs=0.015)
    assert kept.mean() == pytest.approx(0.1, abs=0.01)
    assert np.isin(inputs[targets & (inputs != 4)], ordinary).all()


def test_frequencies_alone_lose_the_entropy_of_uniform_targets() -> None:
    labels = np.array([[0, 1, NO_TARGET], [2, NO_TARGET, 3]])
    assert unigram_loss(np.arange(400) % 4, labels, 4) == pytest.approx(math.log(4))


def test_ratios_are_within_rounds_and_turns_alternate(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [{"seconds": 1.0, "loss": 1.8, "reached": True}, {"seconds": 3.0, "loss": 1.9, "reached": False}]
    theirs = [{"seconds": 4.0, "loss": 1.9}, {"seconds": 6.0, "loss": 1.9}]
    assert summary({"lumbre": ours, "hf": theirs})["ratios"] == {"lumbre / hf": 0.375}
    assert "| lumbre | 2.0 (1.5 to 2.5) | 1.8500 (1.8250 to 1.8750) | 1 of 2 |" in capsys.readouterr().out
    assert [turns("ab", 0), turns("ab", 1)] == ["ab", "ba"]


def test_a_process_is_timed_and_told_where_it_fails(tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-c", "print('one'); import time; time.sleep(0.2); print('two')"], tmp_path, 1
    )
    assert [line for _, line in done.lines] == ["one", "two"]
    assert done.lines[1][0] - done.lines[0][0] > 0.15
    assert done.seconds >= done.lines[1][0]
    with pytest.raises(RuntimeError, match="what went wrong"):
        run([sys.executable, "-c", "raise SystemExit('what went wrong')"], tmp_path, 1)


@pytest.mark.slow
def test_an_encoder_and_its_peer_train_on_the_same_tokens(tmp_path: Path) -> None:
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    words = [f"word{number}" for number in range(300)]
    chance = np.random.default_rng(1)
    for name, count in (("train", 20_000), ("valid", 2_000)):
        (folder / f"{name}.txt").write_text(" ".join(chance.choice(words, count)))
    out = tmp_path / "found.json"
    sizes = ["train.steps=2", "train.global_batch_size=2", "train.micro_batch_size=2", "eval_samples=4"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.time_to_loss", str(tmp_path), "--settings", "encoder"),
            *("--rounds", "1", "--minutes", "0.02", "--threads", "1", "--to", str(out), "--set", *sizes),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "lumbre / hf: " in done.stdout
    assert out.is_file()
