"""A mixture with stages as its users meet it: metrics, resume, what may still change, what is refused."""

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .conftest import CONFIG

if TYPE_CHECKING:
    from .conftest import Project

pytestmark = pytest.mark.slow

STAGES = [
    {"after_step": 8, "seq_length": 64, "global_batch_size": 4},
    {"after_step": 16, "weights": {"log": 1, "rest": 1}},
]
KEYS = ("loss", "samples", "tokens", "loss/source/json", "loss/source/log", "loss/source/rest")


@pytest.fixture(scope="module")
def mixed(project: "Project") -> "Project":
    """Return the project with a config `mixed.yaml`, whose run `mixed` is complete."""
    config = yaml.safe_load(CONFIG)
    files = {
        "json": ["corpus/json-[a-s]*"],
        "log": ["corpus/logging-__init__*", "corpus/logging-config*"],
        "rest": ["corpus/json-tool*", "corpus/json-__init__*"],
    }
    mixture: dict[str, Any] = {
        name: {
            "sources": [{"type": "text", "paths": paths, "documents": "paragraph"}],
            "validation_fraction": 0.1,
        }
        for name, paths in files.items()
    }
    mixture["json"]["weight"], mixture["log"]["weight"] = 3, 1
    config["data"] = {"mixture": mixture, "seq_length": 32, "stages": STAGES}
    (project.folder / "mixed.yaml").write_text(yaml.safe_dump(config))
    done = project.lumbre("pretrain", "mixed.yaml", "name=mixed")
    assert done.returncode == 0, done.stderr
    return project


def told(project: "Project", run: str) -> list[dict[str, Any]]:
    """Return what each step's row says of the data."""
    return [{key: row.get(key) for key in KEYS} for row in project.rows(run) if "loss" in row]


def test_each_source_has_its_loss_and_stages_follow_each_other(mixed: "Project") -> None:
    rows = told(mixed, "mixed")
    sizes = [8] * 8 + [4] * 16
    assert [row["samples"] for row in rows] == [sum(sizes[: step + 1]) for step in range(24)]
    for step, row in enumerate(rows, start=1):
        assert (row["loss/source/json"] is not None) == (step <= 16)
        assert (row["loss/source/rest"] is not None) == (step > 16)
        losses = [row[key] for key in KEYS[3:] if row[key] is not None]
        assert min(losses) - 1e-6 <= row["loss"] <= max(losses) + 1e-6
    evaluations = [row for row in mixed.rows("mixed") if "eval/loss" in row]
    for row in evaluations:
        mean = (row["eval/loss/source/log"] + row["eval/loss/source/rest"]) / 2
        assert row["eval/loss"] == pytest.approx(mean)


def test_a_killed_mixture_resumes_bit_identically_with_loader_processes_too(mixed: "Project") -> None:
    process = mixed.start("pretrain", "mixed.yaml", "name=killed-mixed", "data.loader_workers=2")
    mixed.wait_for(lambda: mixed.has_step(14, "killed-mixed"), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = mixed.lumbre("pretrain", "mixed.yaml", "name=killed-mixed")
    assert done.returncode == 0, done.stderr
    assert told(mixed, "killed-mixed") == told(mixed, "mixed")


def test_a_stop_with_loader_processes_saves_and_says_so(mixed: "Project") -> None:
    process = mixed.start("pretrain", "mixed.yaml", "name=stopped-mixed", "data.loader_workers=2")
    mixed.wait_for(lambda: mixed.has_step(3, "stopped-mixed"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    done = mixed.lumbre("pretrain", "mixed.yaml", "name=stopped-mixed")
    assert done.returncode == 0, done.stderr
    assert told(mixed, "stopped-mixed") == told(mixed, "mixed")


def test_what_has_not_begun_may_change_and_what_has_is_refused(mixed: "Project") -> None:
    other = "data.stages=[{after_step: 9, weights: {rest: 1}}]"
    first = mixed.lumbre("pretrain", "mixed.yaml", "name=decided-late", other, "train.steps=6")
    assert first.returncode == 0, first.stderr
    refused = mixed.lumbre("pretrain", "mixed.yaml", "name=decided-late", "data.mixture.json.weight=5")
    assert refused.returncode == 2
    assert "data.weights.json: it has '3/4', this run '5/6'" in refused.stderr
    done = mixed.lumbre("pretrain", "mixed.yaml", "name=decided-late")
    assert done.returncode == 0, done.stderr
    rows = told(mixed, "decided-late")
    assert [row["samples"] for row in rows] == [row["samples"] for row in told(mixed, "mixed")]


def test_data_that_may_not_repeat_ends_the_run_early_and_the_schedule_with_it(mixed: "Project") -> None:
    config = yaml.safe_load((mixed.folder / "mixed.yaml").read_text())
    del config["data"]["mixture"]["rest"]
    del config["data"]["stages"]
    config["data"]["mixture"]["log"]["when_exhausted"] = "stop"
    config["train"] = {"steps": 500, "global_batch_size": 32, "micro_batch_size": 32, "log_every": 1}
    (mixed.folder / "once.yaml").write_text(yaml.safe_dump(config))
    command = ("pretrain", "once.yaml", "name=once", "eval_samples=1")
    done = mixed.lumbre(*command)
    assert done.returncode == 0, done.stderr
    rows = [row for row in mixed.rows("once") if "loss" in row]
    last = rows[-1]
    assert f"the data ends after {last['step']} steps of 500: set 'log' has" in done.stderr
    assert 3 < last["step"] < 500
    assert last["learning_rate"] == 0
    again = mixed.lumbre(*command)
    assert f"complete at step {last['step']}; set another name, or more data" in again.stderr


def test_prepared_sets_are_mixed_without_their_text_and_with_one_tokenizer_alone(mixed: "Project") -> None:
    folders = {}
    for name, size in (("json", 600), ("log", 600), ("rest", 700)):
        config = yaml.safe_load((mixed.folder / "mixed.yaml").read_text())
        config["tokenizer"]["vocab_size"] = size
        config["data"] = {**config["data"]["mixture"][name], "folder": f"sets/{name}", "seq_length": 32}
        config["data"].pop("weight", None)
        if name == "log":
            config["tokenizer"] = {"type": "file", "path": "sets/json/tokenizer"}
        (mixed.folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        done = mixed.lumbre("prepare", f"{name}.yaml")
        assert done.returncode == 0, done.stderr
        folders[name] = f"sets/{name}"
    config = yaml.safe_load((mixed.folder / "mixed.yaml").read_text())
    config["tokenizer"] = {"type": "file", "path": "sets/json/tokenizer"}
    config["data"]["mixture"] = {name: {"folder": folder, "weight": 1} for name, folder in folders.items()}
    del config["data"]["stages"]
    (mixed.folder / "sets.yaml").write_text(yaml.safe_dump(config))
    refused = mixed.lumbre("pretrain", "sets.yaml", "name=sets")
    assert refused.returncode == 2
    fingerprints = [
        json.loads((mixed.folder / folder / "manifest.json").read_text())["tokenizer_fingerprint"]
        for folder in (folders["json"], folders["rest"])
    ]
    assert all(one in refused.stderr for one in ["sets/rest", *fingerprints])
    del config["data"]["mixture"]["rest"]
    (mixed.folder / "sets.yaml").write_text(yaml.safe_dump(config))
    done = mixed.lumbre("pretrain", "sets.yaml", "name=sets", "train.steps=3", "checkpoint.every_steps=3")
    assert done.returncode == 0, done.stderr
    assert {"loss/source/json", "loss/source/log"} <= mixed.rows("sets")[0].keys()
