"""`lumbre pretrain` as its users meet it: what it leaves, how it stops, resumes and refuses."""

import hashlib
import json
import math
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

if TYPE_CHECKING:
    from .conftest import Project


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder but its lock and exit record."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (".lock", "exit.json")
    }


def test_metrics_rows_hold_what_the_contract_says(project: "Project") -> None:
    rows = project.rows("unbroken")
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 25))
    for row in training:
        assert {
            "step",
            "tokens",
            "samples",
            "loss",
            "learning_rate",
            "grad_norm",
            "tokens_per_second",
            "mfu",
            "step_seconds",
            "data_seconds",
            "overhead_seconds",
            "peak_memory_bytes",
            "time",
        } <= set(row)
        assert row["samples"] == 8 * row["step"]
        assert 0 < row["tokens"] <= 32 * row["samples"]
        assert row["data_seconds"] + row["overhead_seconds"] <= row["step_seconds"]
    evaluations = [row for row in rows if "eval/loss" in row]
    assert [row["step"] for row in evaluations] == [8, 16, 24]
    for row in evaluations:
        assert row["eval/perplexity"] == pytest.approx(math.exp(row["eval/loss"]))
    assert training[-1]["loss"] < training[0]["loss"]


def test_the_run_folder_is_complete(project: "Project") -> None:
    folder = project.folder / "runs/unbroken"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["optimizer"]["learning_rate"] == 3e-3
    assert config["schedule"]["type"] == "linear"
    assert project.exit("unbroken")["status"] == 0
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "step-00000018",
        "step-00000024",
    ]
    assert (
        "exported: runs/unbroken/model (largest logit difference"
        in (project.folder / "unbroken.stderr").read_text()
    )


def test_plain_transformers_loads_the_model(project: "Project") -> None:
    """No Lumbre is imported for it (law 6 is checked by the export itself)."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = project.folder / "runs/unbroken/model"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "BertForMaskedLM"
    inputs = tokenizer("def dumps(obj): return [MASK]", return_tensors="pt")
    assert tokenizer.mask_token_id in inputs["input_ids"]
    with torch.no_grad():
        assert model(**inputs).logits.shape[-1] == len(tokenizer)


def test_a_complete_run_says_so_and_changes_nothing(project: "Project") -> None:
    folder = project.folder / "runs/unbroken"
    before = contents(folder)
    done = project.lumbre("pretrain", "run.yaml", "name=unbroken", "tracking=[{type: wandb, project: tests}]")
    assert done.returncode == 0
    assert "complete at step 24" in done.stderr
    assert contents(folder) == before


def test_a_killed_run_resumes_bit_identically(project: "Project") -> None:
    """SIGKILL after step 15: the same command goes on from step 12, and repeats every loss (law 3)."""
    process = project.start("pretrain", "run.yaml", "name=killed")
    project.wait_for(lambda: project.has_step(15, "killed"), process)
    process.kill()
    process.wait()
    done = project.lumbre("pretrain", "run.yaml", "name=killed")
    assert done.returncode == 0, done.stderr
    events = [row for row in project.rows("killed") if row.get("event") == "resumed"]
    assert events
    assert events[0]["step"] in (12, 18)
    assert project.losses("killed") == project.losses("unbroken")
    assert evaluations(project, "killed") == evaluations(project, "unbroken")


def evaluations(project: "Project", run: str) -> list[tuple[int, float]]:
    """Return (step, loss) of each evaluation."""
    return [(row["step"], row["eval/loss"]) for row in project.rows(run) if "eval/loss" in row]


def test_a_signal_saves_and_a_second_job_is_refused(project: "Project") -> None:
    """SIGTERM: finish the step, save, exit 75, go on bit-identically; meanwhile nobody else gets in."""
    process = project.start("pretrain", "run.yaml", "name=stopped", "checkpoint.every_steps=1000")
    project.wait_for(lambda: project.has_step(2, "stopped"), process)
    process.send_signal(signal.SIGSTOP)
    refused = project.lumbre("pretrain", "run.yaml", "name=stopped")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert refused.returncode == 2
    assert "another job holds this run folder (process" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert process.wait() == 75
    assert project.exit("stopped")["status"] == 75
    stopped_at = project.exit("stopped")["step"]
    assert 2 <= stopped_at < 24
    done = project.lumbre("pretrain", "run.yaml", "name=stopped", "checkpoint.every_steps=1000")
    assert done.returncode == 0, done.stderr
    assert project.losses("stopped") == project.losses("unbroken")
    assert evaluations(project, "stopped") == evaluations(project, "unbroken")


def test_a_checkpoint_of_another_run_is_refused_and_left_alone(project: "Project") -> None:
    folder = project.folder / "runs/unbroken"
    before = contents(folder)
    changes = ("seed=4", "model.num_heads=4", "tokenizer.special_tokens=[<|new|>]")
    done = project.lumbre("pretrain", "run.yaml", "name=unbroken", *changes)
    assert done.returncode == 2
    assert "is a checkpoint of another run" in done.stderr
    assert "seed: it has 3, this run 4" in done.stderr
    assert "model.num_heads: it has 2, this run 4" in done.stderr
    assert re.search("tokenizer: it has '[0-9a-f]{64}', this run '[0-9a-f]{64}'", done.stderr)
    assert contents(folder) == before


def test_a_damaged_checkpoint_is_named_and_skipped(project: "Project") -> None:
    """The run goes back to the one before it and ends as it would have (law 4)."""
    import shutil

    shutil.copytree(project.folder / "runs/unbroken", project.folder / "runs/damaged")
    file = project.folder / "runs/damaged/checkpoints/step-00000024/rank-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = project.lumbre("pretrain", "run.yaml", "name=damaged")
    assert done.returncode == 0, done.stderr
    (event,) = [row for row in project.rows("damaged") if row.get("event") == "checkpoint_skipped"]
    assert "step-00000024 is damaged and was skipped: rank-00000.safetensors: its SHA-256" in event["message"]
    assert project.losses("damaged") == project.losses("unbroken")


def test_export_writes_the_latest_checkpoint(project: "Project") -> None:
    done = project.lumbre("export", "runs/unbroken", "--to", "exported")
    assert done.returncode == 0, done.stderr
    from safetensors.torch import load_file

    one = load_file(project.folder / "exported/model.safetensors")
    two = load_file(project.folder / "runs/unbroken/model/model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    json.loads((project.folder / "exported/config.json").read_text())


def test_an_encoder_decoder_trains_resumes_and_exports_as_t5(project: "Project") -> None:
    """Without its last checkpoint the run goes on from the one before, and repeats every loss (law 3)."""
    import shutil

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    command = ["pretrain", "run.yaml", "name=t5", "train.steps=12", "objective={type: span_corruption}"]
    command += ["tokenizer={type: bpe, vocab_size: 700, sentinels: 100}", "model=t5-mini"]
    command += [f"model.{key}=16" for key in ("hidden_size", "head_size", "intermediate_size")]
    command += ["model.num_heads=2", "model.num_layers=1", "model.num_decoder_layers=2"]
    done = project.lumbre(*command)
    assert done.returncode == 0, done.stderr
    losses, evaluated = project.losses("t5"), evaluations(project, "t5")
    assert min(losses[step] for step in (10, 11, 12)) < losses[1]
    folder = project.folder / "runs/t5"
    shutil.rmtree(folder / "checkpoints/step-00000012")
    again = project.lumbre(*command)
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in project.rows("t5") if row.get("event") == "resumed"] == [6]
    assert (project.losses("t5"), evaluations(project, "t5")) == (losses, evaluated)
    model, tokenizer = (
        kind.from_pretrained(folder / "model") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer)
    )
    assert type(model).__name__ == "T5ForConditionalGeneration"
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id
    assert len(tokenizer) == model.config.vocab_size
