"""A project folder with a little real text, and the `lumbre` command run in it as its users run it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lumbre.config import load
from lumbre.errors import ConfigError
from pretrain.config import PretrainConfig

CONFIG = """\
name: run
seed: 3
tokenizer: {type: wordpiece, vocab_size: 600}
data:
  sources: [{type: text, paths: [corpus], documents: paragraph}]
  seq_length: 32
  validation_fraction: 0.1
model:
  type: transformer
  causal: false
  hidden_size: 16
  num_layers: 2
  num_heads: 2
  position: {type: learned, max_length: 64}
  norm_position: post
  norm_epsilon: 1.0e-12
  token_types: 2
  embedding_norm: true
  head_transform: true
  head_bias: true
objective: {type: mlm}
optimizer: {type: adamw, learning_rate: 3.0e-3}
train: {steps: 24, global_batch_size: 8, micro_batch_size: 2, log_every: 1, eval_every: 8}
eval_samples: 8
checkpoint: {every_steps: 6}
"""


@dataclass(frozen=True)
class Project:
    """A folder to run `lumbre` in."""

    folder: Path

    def lumbre(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "lumbre.cli", *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command, its output in files of the folder."""
        with (self.folder / "out.txt").open("w") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "lumbre.cli", *arguments],
                cwd=self.folder,
                stdout=out,
                stderr=out,
                text=True,
            )

    def refusal(self, processes: int, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
        """Return the error of a run's config that is read where so many processes take part."""
        monkeypatch.chdir(self.folder)
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        with pytest.raises(ConfigError) as caught:
            load(PretrainConfig, "run.yaml", overrides)
        return str(caught.value)

    def rows(self, run: str = "run") -> list[dict[str, Any]]:
        """Return the rows of a run's metrics.jsonl."""
        lines = (self.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def losses(self, run: str = "run") -> dict[int, float]:
        """Return each step's training loss."""
        return {row["step"]: row["loss"] for row in self.rows(run) if "loss" in row}

    def evaluations(self, run: str = "run") -> list[dict[str, Any]]:
        """Return the evaluations of a run, without the time of day."""
        rows = [row for row in self.rows(run) if "eval/loss" in row]
        return [{key: value for key, value in row.items() if key != "time"} for row in rows]

    def exit(self, run: str = "run") -> dict[str, Any]:
        """Return exit.json."""
        found: dict[str, Any] = json.loads((self.folder / "runs" / run / "exit.json").read_text())
        return found

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        """Wait until the condition holds; a process that has ended before is a failure."""
        while not condition():
            assert process.poll() is None, (self.folder / "out.txt").read_text()[-3000:]
            time.sleep(0.005)

    def has_step(self, step: int, run: str = "run") -> bool:
        """Return whether the run has logged about so many steps."""
        file = self.folder / "runs" / run / "metrics.jsonl"
        return file.is_file() and len(file.read_text().splitlines()) >= step


def lay_out_project(folder: Path) -> None:
    """Write a little real text and run.yaml, which trains on it."""
    (folder / "corpus").mkdir()
    for name in ("json", "logging"):
        for file in sorted(Path(__import__(name).__file__ or "").parent.glob("*.py")):
            shutil.copy(file, folder / "corpus" / f"{name}-{file.name}.txt")
    (folder / "run.yaml").write_text(CONFIG)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose data is prepared and whose run `unbroken` is complete."""
    folder = tmp_path_factory.mktemp("project")
    lay_out_project(folder)
    project = Project(folder)
    done = project.lumbre("pretrain", "run.yaml", "name=unbroken", "tracking=[{type: wandb, project: tests}]")
    assert done.returncode == 0, done.stderr
    (folder / "unbroken.stderr").write_text(done.stderr)
    return project
