"""lm-eval on our decoders, by the commands of docs/evaluation.md."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from lumbre import hub
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"),
]
ROOT = Path(__file__).parents[2]
SIZES = {"causal": True, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
POSITIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"type": "learned", "max_length": 48},
    "lumbre": {"type": "alibi"},
}


def commands() -> dict[str, list[str]]:
    """Return the commands for the task folder: of a family of Hugging Face's, and of our own model type."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(), re.DOTALL)
    own, named = sorted(
        (shlex.split(block.replace("\\\n", " ")) for block in blocks if "docs/lm_eval" in block),
        key=lambda words: words[0] == "lm_eval",
    )
    return {"gpt2": [sys.executable, "-m", *named], "lumbre": [sys.executable, *own[1:]]}


def records(file: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("kind", sorted(POSITIONS))
def test_lm_eval_gives_the_likelihoods_of_our_own_model(kind: str, tmp_path: Path) -> None:
    questions = records(ROOT / "docs/lm_eval/stdlib_imports.jsonl")
    tokenizer = BpeConfig.model_validate({}).build([f"from {one['module']} import" for one in questions])
    torch.manual_seed(0)
    shape = TransformerConfig.model_validate({**SIZES, "position": POSITIONS[kind]})
    model = LanguageModel(shape.build(tokenizer.vocab_size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    folder = hub.save(model, tokenizer, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind

    command = [re.sub(r"pretrained=.*", f"pretrained={folder}", word) for word in commands()[kind]]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    told = sorted(records(samples), key=lambda sample: sample["doc_id"])

    encode = AutoTokenizer.from_pretrained(folder)
    right = 0
    for question, sample in zip(questions, told, strict=True):
        prompt, expected = f"from {question['module']} import", []
        start = len(encode.encode(prompt, add_special_tokens=False))
        for choice in question["choices"]:
            ids = torch.tensor([encode.encode(f"{prompt} {choice}", add_special_tokens=False)])
            with torch.no_grad():
                scores = model(ids).logits.log_softmax(-1)[0, start - 1 : -1]
            expected.append(float(scores.gather(1, ids[0, start:, None]).sum()))
        assert [float(found[0][0]) for found in sample["resps"]] == pytest.approx(expected, abs=1e-3)
        right += max(range(4), key=expected.__getitem__) == question["answer"]
    accuracy = json.loads(results.read_text())["results"]["stdlib_imports"]["acc,none"]
    assert accuracy == pytest.approx(right / len(questions))
