"""What a tracked pretraining and the fine-tuning of its model leave for `wandb sync`, and what they say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .test_finetune import CONFIG, write_task

if TYPE_CHECKING:
    from .conftest import Project

TRACKED = "tracking=[{type: wandb, mode: offline, project: tests}]"
SAMPLES = "samples={prompts: ['def [MASK](self):', 'import <mask>'], every_steps: 10}"


def records(run: Path) -> list[dict[str, Any]]:
    """Return what the client's own reader finds in the offline files."""
    found = []
    for folder in sorted((run / "wandb").glob("offline-run-*")):
        line = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
        said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        found += [json.loads(text) for text in said.splitlines()]
    return found


def artifacts(run: Path) -> list[dict[str, Any]]:
    """Return the artifacts that a run has read or written, tables aside."""
    found = [record["artifact"] for record in records(run) if record["type"] == "artifact"]
    return [one for one in found if one["type"] != "run_table"]


def said(project: "Project", run: str) -> dict[int, list[dict[str, str]]]:
    return {row["step"]: row["samples"] for row in project.rows(run) if isinstance(row.get("samples"), list)}


def test_what_metrics_jsonl_has_stands_in_the_offline_file(project: "Project") -> None:
    """Each row of the run, at its step, with what it can be drawn over."""
    history = [
        one["history"]["item"]
        for one in records(project.folder / "runs/unbroken")
        if one["type"] == "history"
    ]
    assert [row["_step"] for row in history] == list(range(1, 25))
    for key in ("loss", "grad_norm", "eval/loss", "tokens", "samples"):
        wanted = {row["step"]: row[key] for row in project.rows("unbroken") if key in row}
        assert {row["step"]: row[key] for row in history if key in row} == wanted
    assert all({"tokens", "samples"} <= row.keys() for row in project.rows("unbroken") if "eval/loss" in row)


def test_a_run_that_speaks_is_the_run_that_it_would_have_been(project: "Project") -> None:
    """Losses, evaluations and weights are bit-identical to a run without samples."""
    done = project.lumbre("pretrain", "run.yaml", "name=speaks", SAMPLES)
    assert done.returncode == 0, done.stderr
    assert list(said(project, "speaks")) == [10, 20, 24]
    for one in said(project, "speaks").values():
        assert [row["prompt"] for row in one] == ["def [MASK](self):", "import <mask>"]
        assert one[0]["text"].startswith("\ndef ")
        assert "[MASK]" not in one[0]["text"]
    assert "import <mask> -> import " in done.stdout
    assert project.losses("speaks") == project.losses("unbroken")
    speaks, unbroken = (project.evaluations(run) for run in ("speaks", "unbroken"))
    assert speaks == unbroken
    one, two = (project.folder / "runs" / run / "model/model.safetensors" for run in ("speaks", "unbroken"))
    assert one.read_bytes() == two.read_bytes()
    assert not (project.folder / "runs/speaks/samples-at-work").exists()


@pytest.mark.slow
def test_lineage_leads_from_the_corpus_to_the_fine_tuned_model(project: "Project") -> None:
    write_task(project.folder)
    (project.folder / "tuned.yaml").write_text(CONFIG)
    keys = (
        "name=tracked",
        "seeds=[1]",
        "compare_with_scratch=false",
        "train.steps=4",
        "train.eval_every=2",
        TRACKED,
    )
    done = project.lumbre("finetune", "tuned.yaml", *keys, "model.path=runs/unbroken/model")
    assert done.returncode == 0, done.stderr
    made, tuned = (artifacts(project.folder / "runs" / run) for run in ("unbroken", "tracked"))
    data, *checkpoints, model = made
    assert (data["type"], data["use_after_commit"]) == ("dataset", True)
    assert {one["type"] for one in checkpoints} == {"checkpoint"}
    # Two are kept, and an older one that is gone before the client gets to it is nothing to point at.
    steps = [(set(one["aliases"]) - {"latest"}).pop() for one in checkpoints]
    assert steps == [step for step in ("step-6", "step-12", "step-18", "step-24") if step in steps]
    assert steps[-2:] == ["step-18", "step-24"]
    assert all("latest" in one["aliases"] for one in checkpoints)
    for one in [data, *checkpoints]:
        for entry in one["manifest"]["contents"]:
            assert entry["path"].endswith(".json") or entry["ref"].startswith(f"file://{project.folder}/")
    start, *_, result = tuned
    assert (start["name"], start["digest"]) == (model["name"], model["digest"])
    assert start["use_after_commit"]
    assert (result["name"], result["type"]) == ("tracked-model", "model")
    assert "use_after_commit" not in result


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [1, 3])
def test_two_deepspeed_ranks_say_what_one_process_says(project: "Project", stage: int) -> None:
    """The main rank gathers the weights, whatever part of them it holds."""
    keys = ("run.yaml", SAMPLES, "train.steps=10")
    alone = project.lumbre("pretrain", *keys, f"name=alone-{stage}")
    assert alone.returncode == 0, alone.stderr
    engine = f"engine={{type: deepspeed, zero_stage: {stage}}}"
    two = project.lumbre(
        "launch",
        "local",
        "processes=2",
        "threads_per_process=1",
        "--",
        "pretrain",
        *keys,
        f"name=two-{stage}",
        engine,
    )
    assert two.returncode == 0, two.stderr
    assert said(project, f"two-{stage}") == said(project, f"alone-{stage}")


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_leaves_an_event_and_the_run_goes_on(project: "Project") -> None:
    samples = "samples={prompts: [no mask is here], every_steps: 6}"
    done = project.lumbre("pretrain", "run.yaml", "name=mute", samples, "train.steps=6")
    assert done.returncode == 0, done.stderr
    (event,) = (row for row in project.rows("mute") if "event" in row)
    assert (event["event"], event["step"]) == ("samples_failed", 6)
    assert "has none; write [MASK] where a token is missing" in event["message"]
