"""A W&B sweep out of a grid: what its client takes, and a command that the client's agent makes runs of."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.config import FinetuneConfig
from finetune.sweep import write_sweep
from lumbre.config import load
from lumbre.errors import ConfigError


def read(folders: dict[str, Path], folder: Path, **changes: Any) -> FinetuneConfig:
    """Return a config with a grid as the command reads it."""
    tree = {
        "name": "it's mine",
        "model": {"path": str(folders["bert"])},
        "task": {"type": "classification", "max_length": 32},
        "data": {"type": "jsonl", **dict.fromkeys(("train", "validation"), str(folder / "data.jsonl"))},
        "optimizer": {"type": "adamw", "learning_rate": 1e-3},
        "train": {"epochs": 1, "global_batch_size": 8, "micro_batch_size": 4},
        "grid": {"optimizer.learning_rate": [1e-4, 1e-3], "train.epochs": [1, 2]},
        "tracking": [{"type": "wandb", "project": "fine"}],
        **changes,
    }
    (folder / "data.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    (folder / "fine.yaml").write_text(yaml.safe_dump(tree))
    return load(FinetuneConfig, folder / "fine.yaml")


def test_the_agent_makes_a_run_of_its_own_of_each_point(folders: dict[str, Path], tmp_path: Path) -> None:
    """By W&B's own functions, and a shell with a stand-in for `lumbre` that says what it was given."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    write_sweep(read(folders, tmp_path), "my config.yaml", tmp_path / "sweep.yaml")
    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    assert sweep["method"] == "grid"
    assert sweep["project"] == "fine"
    assert sweep["metric"] == {"name": "eval/accuracy", "goal": "maximize"}
    assert sweep["parameters"]["train.epochs"] == {"values": [1, 2]}
    given = {"optimizer.learning_rate": {"value": 1e-3}, "train.epochs": {"value": 2}}
    filled = {"env": ["/usr/bin/env"], **create_sweep_command_args({"args": given})}
    command = [
        word
        for part in create_sweep_command(sweep["command"])
        for word in (filled[part[2:-1]] if part.startswith("${") else [part])
    ]
    stand_in = tmp_path / "bin" / "lumbre"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}", "WANDB_RUN_ID": "abc123"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(said) == [
        "finetune",
        "my config.yaml",
        "name=it's mine-abc123",
        "grid={}",
        "seeds=[]",
        "optimizer.learning_rate=0.001",
        "train.epochs=2",
    ]


def test_a_run_of_a_sweep_has_the_agents_id(monkeypatch: pytest.MonkeyPatch) -> None:
    from lumbre.tracking.wandb.tracker import sweeps_id

    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    assert sweeps_id() is None
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert sweeps_id() == "abc123"


def test_a_sweep_of_nothing_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_sweep(read(folders, tmp_path, grid={}, tracking=[]), "fine.yaml", tmp_path / "sweep.yaml")
    assert "grid: is empty" in str(caught.value)
    assert "tracking: has no W&B tracker" in str(caught.value)
    assert not (tmp_path / "sweep.yaml").exists()
