"""`lumbre launch`: the same run on two DeepSpeed processes, through torchrun's agent."""

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

LOCAL = ["launch", "local", "processes=2", "threads_per_process=1", "--"]
ZERO = ["engine.type=deepspeed", "engine.zero_stage=2"]


def test_two_deepspeed_ranks_train_the_same_run(project: "Project") -> None:
    """Stopped by a signal on two ranks of ZeRO 2, finished by one process of accelerate (laws 2 and 3)."""
    job = ["pretrain", "run.yaml", "name=launched", "tracking=[{type: wandb, project: tests}]"]
    process = project.start(*LOCAL, *job, *ZERO, "checkpoint.every_steps=1000")
    project.wait_for(lambda: project.has_step(4, "launched"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, (project.folder / "out.txt").read_text()
    assert project.exit("launched")["status"] == 75
    assert 4 <= project.exit("launched")["step"] < 24
    assert len(list((project.folder / "runs/launched/wandb").glob("offline-run-*"))) == 1
    done = project.lumbre(*job)
    assert done.returncode == 0, done.stderr
    losses, expected = project.losses("launched"), project.losses("unbroken")
    assert losses.keys() == expected.keys()
    for step, loss in losses.items():
        assert loss == pytest.approx(expected[step], rel=1e-6), f"step {step}"


def test_a_misfit_is_found_before_anything_starts(project: "Project") -> None:
    done = project.lumbre(*LOCAL, "pretrain", "run.yaml", "name=misfit", "train.micro_batch_size=8")
    assert done.returncode == 2
    assert "8 is not micro_batch_size x accumulation_steps x processes = 8 x 1 x 2 = 16" in done.stderr
    assert not (project.folder / "runs/misfit").exists()


def test_a_dry_run_prints_the_command(project: "Project") -> None:
    done = project.lumbre(
        "launch", "local", "processes=2", "--dry-run", "--", "pretrain", "run.yaml", "name=$(x)"
    )
    assert done.returncode == 0
    assert "lumbre.elastic" in done.stdout
    assert "'name=$(x)'" in done.stdout
