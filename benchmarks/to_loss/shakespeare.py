"""nanoGPT's CPU setting: tiny-shakespeare by characters, to the loss of 1.88 that its README promises."""

import json
import pickle
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.to_loss.evaluator import Logits, mean_loss, parameters, saved_model, windows
from benchmarks.to_loss.process import LUMBRE, PYTHON, ROOT, Ran, run
from lumbre.tokenizer import Tokenizer

TARGET = 1.88
CONTEXT = 64
CONFIG = ROOT / "configs/pretrain/fast-gpt-char.yaml"
COMMAND = (
    *("train.py", "config/train_shakespeare_char.py", "--device=cpu", "--eval_iters=20", "--log_interval=1"),
    *("--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128"),
    *("--max_iters=2000", "--lr_decay_iters=2000", "--dropout=0.0"),
)
"""The README's, but for --compile."""
SAID = re.compile(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)")


def parts(text: str) -> tuple[str, str]:
    """Return the text for training and that for validation, as nanoGPT's prepare.py cuts it."""
    cut = int(len(text) * 0.9)
    return text[:cut], text[cut:]


def ours(text: str, seed: int, folder: Path, threads: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the shipped config; return when an evaluation of all of validation was at the target, and more."""
    corpus = folder / "tinyshakespeare"
    corpus.mkdir(parents=True)
    for name, part in zip(("train", "valid"), parts(text), strict=True):
        (corpus / f"{name}.txt").write_text(part, encoding="utf-8")
    ran = run([*LUMBRE, "pretrain", str(CONFIG), "name=run", f"seed={seed}", *overrides], folder, threads)
    rows = [json.loads(line) for line in (folder / "runs/run/metrics.jsonl").read_text().splitlines()]
    evaluations = [(row["time"] - ran.began, row["eval/loss"]) for row in rows if "eval/loss" in row]
    model = folder / "runs/run/model"
    tokenizer = Tokenizer.load(model)
    tokens = np.concatenate(tokenizer.ids(tokenizer.pieces(parts(text)[1])))
    return {
        **result(ran, evaluations, saved_model(model, "gpt"), tokens),
        "parameters": parameters(model, "gpt"),
    }


def theirs(text: str, folder: Path, threads: int, checkout: Path, *, compiled: bool) -> dict[str, Any]:
    """Run nanoGPT's README's command in a copy of the checkout; its data is prepared before the clock runs.

    Its seed is its own, and the same in every round.
    """
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git", "assets", "*.bin", "out*"))
    data = folder / "data/shakespeare_char"
    letters = sorted(set(text))
    numbers = {letter: number for number, letter in enumerate(letters)}
    for name, part in zip(("train", "val"), parts(text), strict=True):
        np.array([numbers[letter] for letter in part], dtype=np.uint16).tofile(data / f"{name}.bin")
    meta = {"vocab_size": len(letters), "stoi": numbers, "itos": dict(enumerate(letters))}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    ran = run([PYTHON, *COMMAND, f"--compile={compiled}", "--out_dir=out"], folder, threads)
    tokens = np.fromfile(data / "val.bin", dtype=np.uint16)
    model = nanogpt(folder)
    # With targets it gives the logits of every place.
    found = result(ran, said(ran.lines), lambda inputs: model(inputs, inputs)[0], tokens)
    return {**found, "parameters": sum(one.numel() for one in model.parameters())}


def said(lines: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
    """Return nanoGPT's own estimates, each with its seconds."""
    found = [(seconds, SAID.match(line)) for seconds, line in lines]
    return [(seconds, float(match.group(2))) for seconds, match in found if match]


def nanogpt(folder: Path) -> torch.nn.Module:
    """Return the best model that nanoGPT has saved."""
    saved = torch.load(folder / "out/ckpt.pt", map_location="cpu", weights_only=True)
    sys.path.insert(0, str(folder))
    try:
        from model import GPT, GPTConfig
    finally:
        sys.path.remove(str(folder))
    with redirect_stdout(sys.stderr):  # it prints its size
        model = GPT(GPTConfig(**saved["model_args"]))
    prefix = "_orig_mod."
    model.load_state_dict({name.removeprefix(prefix): one for name, one in saved["model"].items()})
    return model.eval()


def result(
    ran: Ran, evaluations: Sequence[tuple[float, float]], model: Logits, tokens: np.ndarray
) -> dict[str, Any]:
    """Return what a run came to, measured by itself and by the evaluation of both sides."""
    reached = [seconds for seconds, loss in evaluations if loss <= TARGET]
    return {
        "seconds": reached[0] if reached else ran.seconds,
        "reached": bool(reached),
        "whole": ran.seconds,
        "evaluations": list(evaluations),
        "loss": mean_loss(model, *windows(tokens, CONTEXT)),
    }
