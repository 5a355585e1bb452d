"""`lumbre launch sweep`: a grid becomes a sweep of W&B's, registered and run by its own client."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch.__main__ import main
from launch.base import Job
from launch.sweep import UNREGISTERED, count_agents, description
from lumbre.errors import ConfigError, LaunchError
from tests.launch.places.project import CONFIG
from tests.launch.places.wandb_server import SWEEP, serving

KEY = "a" * 40
TRACKING = "tracking=[{type: wandb, project: words, mode: offline}]"
RESOLVED = {"name": "it's", "tracking": [{"type": "wandb", "project": "words", "entity": None}], "grid": {}}


@pytest.fixture
def checked(monkeypatch):
    """Answer for the programs' own checks; returns the jobs that were asked about, and what is answered."""
    asked, resolved = [], dict(RESOLVED, runs_folder="runs")

    def check(job, world_size, expected=()):
        asked.append(job)
        return resolved

    for module in ("launch.check", "launch.sweep"):
        monkeypatch.setattr(f"{module}.check", check)
    return asked, resolved


def test_a_dry_run_shows_the_sweep_and_its_agents_and_registers_nothing(
    checked, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "l.yaml").write_text("type: local\ngrid: {seed: [1, 2], optimizer.learning_rate: [0.1]}\n")
    assert main(["sweep", "l.yaml", "agents=2", "--dry-run", "--", "finetune", "c.yaml"]) == 0
    out = capsys.readouterr().out
    tree = yaml.safe_load(out.partition("==> sweep.yaml\n")[2].partition("==> command")[0])
    assert tree["parameters"] == {"seed": {"values": [1, 2]}, "optimizer.learning_rate": {"values": [0.1]}}
    lines = [shlex.split(line) for line in out.partition("==> command\n")[2].splitlines()]
    assert [line[-5:-1] for line in lines] == 2 * [["lumbre.cli", "launch", "agent", UNREGISTERED]]
    assert [Path(line[-1]).name for line in lines] == ["it's-sweep-agent-1", "it's-sweep-agent-2"]
    # Every run of the grid has been checked before.
    assert len([job for job in checked[0] if "seed=2" in job.arguments]) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["l.yaml"]


def test_the_jobs_own_grid_is_the_sweep_where_the_launch_config_has_none(checked, capsys):
    checked[1]["grid"] = {"seed": [1, 2, 3]}
    assert (
        main(["sweep", "local", "processes=1", "--dry-run", "--", "finetune", "c.yaml", "grid.seed=[1,2,3]"])
        == 0
    )
    out = capsys.readouterr().out
    assert "- 3" in out
    assert "grid={}" in out


@pytest.mark.parametrize(
    ("words", "resolved", "fault"),
    [
        (["local", "agents=0"], {}, "'0' is no number of agents"),
        (["local", "agents=x"], {}, "'x' is no number of agents"),
        (["local", "processes=1"], {}, "grid: is empty"),
        (["local", "processes=1", "grid.seed=[1]"], {"tracking": []}, "no W&B tracker"),
        (["local", "grid.seed=[1]", "processes=2"], {}, "starts runs of one process, not of 2"),
    ],
)
def test_what_is_no_sweep_is_refused(checked, words, resolved, fault):
    checked[1].update(resolved)
    with pytest.raises((ConfigError, LaunchError), match=fault):
        main(["sweep", *words, "--", "finetune", "c.yaml"])


def test_agents_are_counted():
    assert count_agents(["a=1", "agents=12", "b=2"]) == (12, ["a=1", "b=2"])
    assert count_agents([]) == (1, [])


def test_the_command_of_a_run_hands_every_word_over_and_runs_none_of_it(tmp_path):
    nasty = "it's $(touch pwned) `touch pwned`; touch pwned #"
    job = Job("pretrain", (nasty, "-x"))
    tree = description(job, nasty, {"project": "p"}, {"seed": [1]}, {})
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    python.chmod(0o755)
    env, *command, arguments = tree["command"]
    assert (env, arguments) == ("${env}", "${args_no_hyphens}")
    environment = {**os.environ, "LUMBRE_PYTHON": str(python), "WANDB_RUN_ID": "id"}
    told = subprocess.run(
        [*command, f"seed={nasty}"], env=environment, cwd=tmp_path, capture_output=True, check=True
    )
    expected = ["-m", "lumbre.cli", "pretrain", nasty, "-x", f"name={nasty}-id", f"seed={nasty}"]
    assert json.loads(told.stdout) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["python"]


def lumbre(folder: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return subprocess.run(
        [sys.executable, "-m", "lumbre.cli", *words],
        cwd=folder,
        env={**clean, "HOME": str(folder), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_is_registered_by_the_real_client_and_its_runs_are_run_by_its_agent(tmp_path):
    (tmp_path / "corpus.txt").write_text(Path(json.__file__).with_name("decoder.py").read_text())
    (tmp_path / "run.yaml").write_text(CONFIG.replace("steps: 60", "steps: 4"))
    job = ("pretrain", "run.yaml", "name=r", TRACKING)
    grid = "grid: {optimizer.learning_rate: [0.001, 0.002]}"
    (tmp_path / "launch.yaml").write_text(f"type: local\nlaunch_name: words\n{grid}\n")
    line = ("launch", "sweep", "launch.yaml", "--", *job)
    refused = lumbre(tmp_path, *line)
    assert refused.returncode == 2
    assert "the sweep is not registered: Error: No API key configured." in refused.stderr
    assert "leave out the word sweep" in refused.stderr
    assert "Traceback" not in refused.stderr
    with serving() as (address, sweeps):
        done = lumbre(tmp_path, *line, WANDB_API_KEY=KEY, WANDB_BASE_URL=address)
    assert done.returncode == 0, done.stderr
    assert f"me/words/{SWEEP}" in (done.stdout + done.stderr)
    assert sweeps.config["parameters"] == {"optimizer.learning_rate": {"values": [0.001, 0.002]}}
    assert sweeps.agents == 1
    for value in ("0001", "0002"):
        folder = tmp_path / "runs" / f"r-run{value}"
        assert json.loads((folder / "exit.json").read_text())["status"] == 0
        assert f"learning_rate: {float(value[0] + '.' + value[1:])}" in (folder / "config.yaml").read_text()
    assert KEY not in "".join(f.read_text(errors="replace") for f in tmp_path.rglob("*") if f.is_file())
