"""`lumbre finetune` and `lumbre predict` for models that write, as their users meet them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.finetune.tasks.writers import EXAMPLES, folder

CONFIG = """\
name: run
model: {path: PLACE}
task:
  type: summarization
  prefix: "summarize: "
  max_length: 48
  max_target_length: 16
  generation: {beams: 2, length_penalty: 0.5}
data: {type: jsonl, train: train.jsonl, validation: validation.jsonl}
optimizer: {type: adamw, learning_rate: 1.0e-2, weight_decay: 0.0}
schedule: {type: linear}
train: {steps: 40, global_batch_size: 8, micro_batch_size: 4, log_every: 20, eval_every: 40}
engine: {type: accelerate}
"""


def lumbre(where: Path, *arguments: str) -> None:
    """Run the command to its end."""
    command = [sys.executable, "-m", "lumbre.cli", *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ranks"), [("t5", 2), ("gpt2", 1)])
def test_a_summarizer_is_tuned_saved_and_used(name: str, ranks: int, tmp_path: Path) -> None:
    """What it writes in the run, from `lumbre predict` and by plain transformers is the same.

    Two ranks hold half of each weight: both have to write until the longest text of either is done.
    """
    import transformers

    place = folder(name, tmp_path)
    (tmp_path / "tune.yaml").write_text(CONFIG.replace("PLACE", str(place)))
    for split, records in (("train", EXAMPLES), ("validation", EXAMPLES[:4])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    if ranks == 1:
        lumbre(tmp_path, "finetune", "tune.yaml")
    else:
        # DeepSpeed leaves small weights whole; these are small.
        raw = "engine.deepspeed={zero_optimization: {stage3_param_persistence_threshold: 0}}"
        zero = ("engine.type=deepspeed", "engine.zero_stage=3", raw, "eval_batch_size=1")
        lumbre(tmp_path, "launch", "local", f"processes={ranks}", "--", "finetune", "tune.yaml", *zero)

    run = tmp_path / "runs/run"
    (row,) = json.loads((run / "results.json").read_text())["rows"]
    lines = [json.loads(line) for line in (run / "predictions-validation.jsonl").read_text().splitlines()]
    assert [list(line) for line in lines] == [["input", "target", "prediction", "tokens", "score"]] * 4
    assert row["rougeL"] == pytest.approx(sum(line["score"] for line in lines) / 4)
    assert row["rougeL"] > 0.1

    lumbre(tmp_path, "predict", "runs/run", "--input", "validation.jsonl", "--output", "out.jsonl")
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["prediction"] for one in again] == [line["prediction"] for line in lines]

    auto = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(run / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    for line in lines:
        prompt = (
            f"summarize: {line['input']}{tokenizer.eos_token}"
            if name == "t5"
            else f"{line['input']}\n\nTL;DR:"
        )
        ids_BT = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT))[0]
        new = out if name == "t5" else out[ids_BT.shape[1] :]
        assert tokenizer.decode(new, skip_special_tokens=True).strip() == line["prediction"]
