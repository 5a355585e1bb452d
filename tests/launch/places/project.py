"""A project on two hosts of this machine, and the `lumbre` command run in it by the ssh launcher."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.places.hosts import Hosts

CONFIG = """\
seed: 3
tokenizer: {type: wordpiece, vocab_size: 600}
data: {sources: [{type: text, paths: [corpus.txt], documents: paragraph}], seq_length: 32}
model:
  {type: transformer, causal: false, hidden_size: 16, num_layers: 2, num_heads: 2,
   position: {type: learned, max_length: 64}}
objective: {type: mlm}
optimizer: {type: adamw, learning_rate: 3.0e-3}
train: {steps: 60, global_batch_size: 8, micro_batch_size: 2, log_every: 1}
checkpoint: {every_steps: 10}
"""
ON_TWO_HOSTS = ("engine.type=deepspeed", "engine.zero_stage=2")
PATIENCE_SECONDS = 300
"""Many times what it takes; for machines with much else to do."""


@dataclass(frozen=True)
class Project:
    """A folder with a config and prepared data, which all hosts share, as they share all files."""

    folder: Path
    hosts: Hosts

    def lumbre(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        child = self.start(*words)
        out, err = child.communicate(timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def launch(self, *words: str) -> tuple[str, ...]:
        """Return the words of a run on both hosts."""
        return ("launch", "launch.yaml", "--", "pretrain", "run.yaml", *ON_TWO_HOSTS, *words)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the command."""
        return subprocess.Popen(
            [sys.executable, "-m", "lumbre.cli", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def losses(self, name: str) -> dict[int, float]:
        """Return each step's loss."""
        lines = (self.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
        return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}

    def wait_for_step(self, step: int, name: str, child: "subprocess.Popen[str]") -> None:
        """Wait until a run has logged the step."""
        file = self.folder / "runs" / name / "metrics.jsonl"
        while not (file.is_file() and f'"step": {step},' in file.read_text()):
            assert child.poll() is None, child.communicate()
            time.sleep(0.02)

    def wait_until_nothing_is_left(self) -> None:
        """Wait until no process of the job is on any host."""
        until = time.monotonic() + PATIENCE_SECONDS
        while left := {
            name: self.hosts.processes(name) for name in self.hosts.names if self.hosts.processes(name)
        }:
            assert time.monotonic() < until, left
            time.sleep(0.2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    if why := Hosts.why_not():
        pytest.skip(why)
    place = tmp_path_factory.mktemp("hosts")
    folder = tmp_path_factory.mktemp("project") / "it's $(touch pwned)"
    folder.mkdir()
    (folder / "corpus.txt").write_text(Path(json.__file__).with_name("decoder.py").read_text())
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "launch.yaml").write_text(
        f"type: ssh\nhosts: [node1 slots=1, node2 slots=1]\nssh_options: [-F, {place}/ssh_config]\n"
        "threads_per_process: 1\nenv: {GLOO_SOCKET_IFNAME: eth0}\n"
        "answer_timeout_seconds: 6\nstop_timeout_seconds: 15\n"
    )
    hosts = Hosts(place, 2)
    project = Project(folder, hosts)
    try:
        hosts.up()
        done = project.lumbre("pretrain", "run.yaml", "name=alone")
        assert done.returncode == 0, done.stderr
        yield project
    finally:
        hosts.down()
