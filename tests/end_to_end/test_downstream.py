"""Probes while pretraining: what they log, and that the run is the one that it would have been."""

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.processes import assert_nobody_works_in

from .test_finetune import write_task

if TYPE_CHECKING:
    from .conftest import Project

CONFIG = """\
name: probe
model: {path: chosen-by-the-run}
task: {type: classification, max_length: 32}
data: {type: jsonl, train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
optimizer: {type: adamw, learning_rate: 1.0e-2}
train: {steps: 2, global_batch_size: 8, micro_batch_size: 8}
compare_with_scratch: true
seeds: [1, 2]
tracking: [{type: wandb}]
"""
LONG = "{config: probe.yaml, name: long, overrides: [train.steps=100000, checkpoint.every_steps=1]}"
SHORT = "{config: probe.yaml, name: long}"


@pytest.fixture(scope="module")
def task(project: "Project") -> "Project":
    """Return the project with a fine-tuning config, and data of which one line is broken."""
    write_task(project.folder)
    (project.folder / "probe.yaml").write_text(CONFIG)
    (project.folder / "broken.jsonl").write_text('{"text": "def f(): pass", "label": "json"}\n{"text"\n')
    return project


def probes_of(project: "Project", run: str) -> list[tuple[int, str]]:
    """Return the step and name of every probe that the run has logged, in order."""
    found = []
    for row in project.rows(run):
        if names := {key.split("/")[1] for key in row if key.startswith("downstream/")}:
            (name,) = names
            assert 0.0 <= row[f"downstream/{name}/accuracy"] <= 1.0
            found.append((row["step"], name))
    return found


def test_a_wrong_probe_is_told_before_training(task: "Project") -> None:
    (task.folder / "wrong.yaml").write_text(CONFIG.replace("classification", "clasification"))
    probes = "[wrong.yaml, nowhere.yaml, {config: probe.yaml, name: other, overrides: [train.stepz=3]}]"
    refused = task.lumbre("pretrain", "run.yaml", "name=refused", f"downstream={probes}")
    assert refused.returncode == 2
    said = refused.stderr.splitlines()
    assert said[0] == "error: 3 problems in the config"
    assert "downstream.0: wrong.yaml:3: task.type: unknown type 'clasification'" in said[1]
    assert "downstream.1: nowhere.yaml: no such config file" in said[2]
    assert "downstream.2: train.stepz: unknown key; did you mean 'steps'?" in said[3]
    assert not (task.folder / "runs/refused").exists()


@pytest.mark.slow
def test_probes_are_logged_and_leave_the_run_as_it_would_have_been(task: "Project") -> None:
    """One probe fails on its data; the losses, evaluations and weights are bit-identical to a run without."""
    probes = "[probe.yaml, {config: probe.yaml, name: broken, overrides: [data.train=broken.jsonl]}]"
    done = task.lumbre(
        "pretrain", "run.yaml", "name=probed", "train.downstream_every=16", f"downstream={probes}"
    )
    assert done.returncode == 0, done.stderr
    assert probes_of(task, "probed") == [(16, "probe"), (24, "probe")]
    faults = [row for row in task.rows("probed") if row.get("event") == "probe_failed"]
    assert [row["step"] for row in faults] == [16, 24]
    assert all(row["message"].startswith("broken: error: broken.jsonl:2: is not JSON") for row in faults)
    for row in task.rows("probed"):
        # A probe takes seconds; the steps around it are told without it.
        assert row.get("step_seconds", 0.0) < 1.0

    assert task.losses("probed") == task.losses("unbroken")
    probed, unbroken = (task.evaluations(run) for run in ("probed", "unbroken"))
    assert probed == unbroken
    one, two = (task.folder / "runs" / run / "model/model.safetensors" for run in ("probed", "unbroken"))
    assert one.read_bytes() == two.read_bytes()

    folder = task.folder / "runs/probed/downstream"
    assert sorted(file.name for file in folder.iterdir()) == [
        "broken-step-00000016.log",
        "broken-step-00000024.log",
        "probe-step-00000016.json",
        "probe-step-00000016.log",
        "probe-step-00000024.json",
        "probe-step-00000024.log",
    ]
    (row,) = json.loads((folder / "probe-step-00000024.json").read_text())["rows"]
    logged = next(row for row in reversed(task.rows("probed")) if "downstream/probe/accuracy" in row)
    assert logged == {
        "step": 24,
        "tokens": task.rows("probed")[-1]["tokens"],
        "samples": 24 * 8,
        **{f"downstream/probe/{key}": row["validation"][key] for key in row["validation"]},
    }


@pytest.mark.slow
def test_a_probe_that_is_cut_off_ends_with_its_run_and_is_run_on_resume(task: "Project") -> None:
    """SIGTERM saves, exits 75 and ends the probe; SIGKILL leaves none behind; what has ended is kept."""
    folder = task.folder / "runs/cut"
    keys = ["run.yaml", "name=cut"]
    long, short = (f"downstream=[probe.yaml, {last}]" for last in (LONG, SHORT))

    def at_work() -> bool:
        return (folder / "downstream/at-work/long/metrics.jsonl").is_file()

    process = task.start("pretrain", *keys, long)
    task.wait_for(at_work, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, (task.folder / "out.txt").read_text()
    assert task.exit("cut") | {"status": 75, "step": 24} == task.exit("cut")
    assert not (folder / "downstream/at-work").exists()
    assert_nobody_works_in(task.folder)

    process = task.start("pretrain", *keys, long)
    task.wait_for(at_work, process)
    process.kill()
    process.wait()
    assert_nobody_works_in(task.folder)

    done = task.lumbre("pretrain", *keys, short)
    assert done.returncode == 0, done.stderr
    assert not (folder / "downstream/at-work").exists()
    assert (folder / "model/model.safetensors").is_file()
    assert probes_of(task, "cut") == [(24, "probe"), (24, "long")]
    assert task.losses("cut") == task.losses("unbroken")
