"""Fine-tuning on other layouts: the same machinery as pretraining, and the same laws (2 and 3)."""

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from .test_finetune import CONFIG, write_task

if TYPE_CHECKING:
    from .conftest import Project

RANKS = ["launch", "local", "processes=2", "threads_per_process=1", "--"]
KEYS = ("seeds=[1]", "compare_with_scratch=false", "train.steps=16", "model.path=runs/unbroken/model")
STAGES = {stage: ("engine.type=deepspeed", f"engine.zero_stage={stage}") for stage in (2, 3)}


@pytest.fixture(scope="module")
def alone(project: "Project") -> "Project":
    """Return the project with the run `alone`, by one process of accelerate."""
    write_task(project.folder)
    (project.folder / "layouts.yaml").write_text(f"name: alone\n{CONFIG}")
    done = project.lumbre("finetune", "layouts.yaml", *KEYS)
    assert done.returncode == 0, done.stderr
    return project


def row(folder: Path) -> dict[str, Any]:
    """Return what a run came to."""
    (found,) = json.loads((folder / "results.json").read_text())["rows"]
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_deepspeed_ranks_learn_the_same_task(alone: "Project", stage: int) -> None:
    """Stopped on two ranks and gone on with, length buckets dealt over both: the losses of one process."""
    name = f"zero-{stage}"
    job = ["finetune", "layouts.yaml", *KEYS, f"name={name}"]
    process = alone.start(*RANKS, *job, *STAGES[stage])
    alone.wait_for(lambda: alone.has_step(4, name), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, (alone.folder / "out.txt").read_text()
    done = alone.lumbre(*RANKS, *job, *STAGES[stage])
    assert done.returncode == 0, done.stderr
    losses, expected = alone.losses(name), alone.losses("alone")
    assert losses.keys() == expected.keys()
    for step, loss in losses.items():
        assert loss == pytest.approx(expected[step], rel=1e-4), f"step {step}"
    one, two = (row(alone.folder / "runs" / run) for run in ("alone", name))
    assert two["step"] == one["step"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.slow
def test_two_ranks_of_zero_3_write_what_one_process_writes(alone: "Project") -> None:
    """Generation gathers each layer as it goes: ranks that are done must go on with those that are not."""
    folder = alone.folder
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=512, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    for file in (folder / "runs/unbroken/model").glob("tokenizer*"):
        shutil.copy(file, folder / "t5")
    vocabulary = json.loads((folder / "t5/tokenizer.json").read_text())["model"]["vocab"]
    config.vocab_size = len(vocabulary) + 8
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    records = [
        json.dumps({"document": f"from {word} import", "summary": word})
        for word in ("json", "logging", "handler", "decode", "a", "the encoder of json")
    ]
    (folder / "short.jsonl").write_text("\n".join(records) + "\n")
    splits = "{type: jsonl, train: short.jsonl, validation: short.jsonl, test: short.jsonl}"
    (folder / "write.yaml").write_text(
        "name: written\nmodel: {path: t5}\n"
        "task: {type: summarization, max_length: 16, max_target_length: 12, generation: {beams: 2}}\n"
        f"data: {splits}\noptimizer: {{type: adamw, learning_rate: 1.0e-2}}\n"
        "train: {steps: 6, global_batch_size: 4, micro_batch_size: 2, log_every: 1}\neval_batch_size: 1\n"
    )
    done = alone.lumbre("finetune", "write.yaml")
    assert done.returncode == 0, done.stderr
    done = alone.lumbre(*RANKS, "finetune", "write.yaml", "name=written-3", *STAGES[3])
    assert done.returncode == 0, done.stderr
    texts = [
        [json.loads(line)["prediction"] for line in (folder / place).read_text().splitlines()]
        for place in ("runs/written/predictions-test.jsonl", "runs/written-3/predictions-test.jsonl")
    ]
    assert len(texts[0]) == len(records)
    assert texts[0] == texts[1]
