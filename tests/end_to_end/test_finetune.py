"""`lumbre finetune` as its users meet it: what it leaves, how it stops, resumes and recalls."""

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

if TYPE_CHECKING:
    from .conftest import Project

CONFIG = """\
seeds: [1, 2]
compare_with_scratch: true
model: {path: model-with-dropout}
task: {type: classification, max_length: 32}
data: {type: jsonl, train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
optimizer: {type: adamw, learning_rate: 1.0e-2}
schedule: {type: constant}
train: {steps: 40, global_batch_size: 8, micro_batch_size: 4, log_every: 1, eval_every: 7}
selection: {keep: best}
eval_batch_size: 8
"""
METRICS = ["accuracy", "f1", "f1_macro", "matthews", "loss"]
RUNS = [f"{start}-seed-{seed}" for seed in (1, 2) for start in ("pretrained", "scratch")]


def write_task(folder: Path) -> None:
    """Write the corpus's paragraphs as records: which package are they from?"""
    paragraphs = {
        package: [
            text
            for file in sorted((folder / "corpus").glob(f"{package}-*"))
            for text in file.read_text().split("\n\n")
            if len(text) > 60
        ][:50]
        for package in ("json", "logging")
    }
    pairs = zip(*paragraphs.values(), strict=True)
    lines = [
        json.dumps({"text": text, "label": label})
        for pair in pairs
        for text, label in zip(pair, paragraphs, strict=True)
    ]
    for split, part in (("train", lines[:60]), ("validation", lines[60:80]), ("test", lines[80:])):
        (folder / f"{split}.jsonl").write_text("\n".join(part))


@pytest.fixture(scope="module")
def tuned(project: "Project") -> "Project":
    """Return the project with the complete run `tuned`, of a model with dropout."""
    folder = project.folder
    shutil.copytree(folder / "runs/unbroken/model", folder / "model-with-dropout")
    config = json.loads((folder / "model-with-dropout/config.json").read_text())
    config["hidden_dropout_prob"] = config["attention_probs_dropout_prob"] = 0.1
    (folder / "model-with-dropout/config.json").write_text(json.dumps(config))
    write_task(folder)
    for name in ("tuned", "stopped"):
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{CONFIG}")
    done = project.lumbre("finetune", "tuned.yaml")
    assert done.returncode == 0, done.stderr
    (folder / "tuned.stdout").write_text(done.stdout)
    (folder / "tuned.stderr").write_text(done.stderr)
    return project


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but its lock and exit record."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (".lock", "exit.json")
    }


def test_the_results_are_those_of_every_run(tuned: "Project") -> None:
    folder = tuned.folder / "runs/tuned"
    results = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    rows = {f"{row['model']}-seed-{row['seed']}": row for row in results["rows"]}
    assert list(rows) == RUNS
    for name, row in rows.items():
        assert list(row) == ["model", "seed", "split", "step", *METRICS, "validation", "run"]
        assert row["split"] == "test"
        assert row == json.loads((folder / name / "results.json").read_text())["rows"][0] | {"run": name}
    assert len({row["loss"] for row in rows.values()}) == len(RUNS)
    gains = [rows[f"pretrained-seed-{n}"]["accuracy"] - rows[f"scratch-seed-{n}"]["accuracy"] for n in (1, 2)]
    assert results["gain"]["mean"] == pytest.approx(sum(gains) / 2)
    assert results["summary"] in " ".join((tuned.folder / "tuned.stdout").read_text().split())
    assert tuned.exit("tuned") | {"status": 0, "step": 40} == tuned.exit("tuned")


def test_the_terminal_says_which_run_of_how_many(tuned: "Project") -> None:
    said = (tuned.folder / "tuned.stderr").read_text().splitlines()
    assert [line for line in said if line.startswith("run ")] == [
        f"run {number} of 4: {name.split('-')[0]}, seed {name[-1]}"
        for number, name in enumerate(RUNS, start=1)
    ]
    assert sum(": complete, test accuracy " in line for line in said) == 4
    assert sum(line.startswith("padding: ") for line in said) == 4
    new = ("bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight")
    told = f"the folder has no such weights, and they are made new: {', '.join(new)}"
    assert said.count(told) == 2
    assert len(said) == 14


@pytest.mark.parametrize("run", RUNS)
def test_the_weights_of_the_best_evaluation_are_kept(tuned: "Project", run: str) -> None:
    """The first of equal ones; the result on validation is the one that was seen in training."""
    evaluations = {row["step"]: row for row in tuned.rows(f"tuned/{run}") if "eval/loss" in row}
    best = max(evaluations, key=lambda step: (evaluations[step]["eval/accuracy"], -step))
    (row,) = json.loads((tuned.folder / f"runs/tuned/{run}/results.json").read_text())["rows"]
    assert row["step"] == best
    for metric, value in row["validation"].items():
        assert value == pytest.approx(evaluations[best][f"eval/{metric}"], rel=1e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_predictions_are_written_for_every_example(tuned: "Project", split: str) -> None:
    """In the examples' order, with the score that the result is the mean of."""
    folder = tuned.folder / f"runs/tuned/{RUNS[0]}"
    lines = [json.loads(line) for line in (folder / f"predictions-{split}.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in (tuned.folder / f"{split}.jsonl").read_text().splitlines()]
    assert [(line["input"], line["target"]) for line in lines] == [
        (record["text"], record["label"]) for record in records
    ]
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    metrics = row if split == "test" else row["validation"]
    assert sum(line["score"] for line in lines) / len(lines) == pytest.approx(metrics["accuracy"])


@pytest.mark.parametrize("run", RUNS)
def test_metrics_rows_hold_what_the_contract_says(tuned: "Project", run: str) -> None:
    rows = tuned.rows(f"tuned/{run}")
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 41))
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
        } == set(row)
        assert row["samples"] == 8 * row["step"]
        assert 0 < row["tokens"] <= 32 * row["samples"]
    evaluations = [row for row in rows if "eval/loss" in row]
    assert [row["step"] for row in evaluations] == [7, 14, 21, 28, 35, 40]
    wanted = {"step", "tokens", "samples", "time", *(f"eval/{name}" for name in METRICS)}
    assert all(set(row) == wanted for row in evaluations)
    assert [row["samples"] for row in evaluations] == [8 * row["step"] for row in evaluations]
    config = yaml.safe_load((tuned.folder / f"runs/tuned/{run}/config.yaml").read_text())
    assert config["model"]["from_scratch"] == run.startswith("scratch")


def test_plain_transformers_classifies_with_the_tuned_model(tuned: "Project") -> None:
    """A pipeline gives the labels by name, and the accuracy that results.json claims."""
    from transformers import pipeline

    folder = tuned.folder / "runs/tuned/pretrained-seed-2"
    classify = pipeline("text-classification", model=str(folder / "model"))
    records = [json.loads(line) for line in (tuned.folder / "test.jsonl").read_text().splitlines()]
    found = classify([record["text"] for record in records], truncation=True, max_length=32)
    assert {one["label"] for one in found} <= {"json", "logging"}
    hits = sum(one["label"] == record["label"] for one, record in zip(found, records, strict=True))
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    assert hits / len(records) == pytest.approx(row["accuracy"])


def test_a_complete_run_says_so_and_changes_nothing(tuned: "Project") -> None:
    folder = tuned.folder / "runs/tuned"
    before = contents(folder)
    again = tuned.lumbre("finetune", "tuned.yaml")
    assert again.returncode == 0
    said = (tuned.folder / "tuned.stderr").read_text().splitlines()
    assert again.stderr.splitlines() == [
        line for line in said if not line.startswith(("padding", "the folder"))
    ]
    assert "Pretraining brings" in again.stdout
    assert "step " not in again.stdout
    assert contents(folder) == before


def test_other_settings_are_refused_and_the_run_left_alone(tuned: "Project") -> None:
    folder = tuned.folder / "runs/tuned"
    before = contents(folder)
    refused = tuned.lumbre("finetune", "tuned.yaml", "optimizer.learning_rate=2.0e-3")
    assert refused.returncode == 2
    assert "runs/tuned/pretrained-seed-1: is complete with other settings" in refused.stderr
    assert "optimizer.learning_rate: it has 0.01, this run 0.002" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert tuned.exit("tuned")["status"] == 2
    assert contents(folder) == before


def test_a_stopped_run_goes_on_bit_identically(tuned: "Project") -> None:
    """SIGTERM in the third run of four: exit 75; then every loss, result and weight is as if unbroken.

    With dropout, so this is law 3 for what a model draws in its forward pass too; the signal comes after an
    evaluation, which leaves the model as training needs it.
    """
    third = f"stopped/{RUNS[2]}"
    process = tuned.start("finetune", "stopped.yaml")
    tuned.wait_for(lambda: tuned.has_step(10, third), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, (tuned.folder / "out.txt").read_text()
    record = tuned.exit("stopped")
    assert record["status"] == 75
    assert record["reason"] == f"stopped on a signal in runs/{third}"
    assert 9 <= record["step"] < 40
    assert not (tuned.folder / "runs/stopped/results.json").exists()

    done = tuned.lumbre("finetune", "stopped.yaml")
    assert done.returncode == 0, done.stderr
    (event,) = [row for row in tuned.rows(third) if row.get("event") == "resumed"]
    assert event["step"] == record["step"]
    one, two = (tuned.folder / "runs" / name for name in ("tuned", "stopped"))
    assert (two / "results.json").read_bytes() == (one / "results.json").read_bytes()
    from safetensors.torch import load_file

    for run in RUNS:
        assert tuned.losses(f"stopped/{run}") == tuned.losses(f"tuned/{run}")
        weights = [load_file(folder / run / "model/model.safetensors") for folder in (one, two)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_missing_model_folder_is_told_with_the_config(
    project: "Project", monkeypatch: pytest.MonkeyPatch
) -> None:
    """In process, for speed: the same `load` that the command calls."""
    from finetune.config import FinetuneConfig
    from lumbre.config import load
    from lumbre.errors import ConfigError

    monkeypatch.chdir(project.folder)
    write_task(project.folder)
    (project.folder / "missing.yaml").write_text(f"name: missing\n{CONFIG}")
    with pytest.raises(ConfigError) as caught:
        load(FinetuneConfig, "missing.yaml", ["model.path=runs/none/model", "data.test=none.jsonl"])
    said = str(caught.value).splitlines()
    assert len(said) == 2
    assert "model.path: runs/none/model does not exist; a pretraining run leaves one" in said[0]
    assert "data.test: none.jsonl does not exist" in said[1]
