"""`engine.sequence_parallel` by the command that users run: checked before the start, and the same run."""

import signal
from typing import TYPE_CHECKING

import pytest

from lumbre.config import load
from pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from .conftest import Project

FOUR = ["launch", "local", "processes=4", "threads_per_process=1", "--"]


@pytest.mark.parametrize(
    ("processes", "arguments", "expected"),
    [
        (
            3,
            ["engine.sequence_parallel=2", "train.micro_batch_size=null", "train.accumulation_steps=8"],
            "engine.sequence_parallel: 3 processes are no multiple of 2; use 1 or 3, or start 4 processes",
        ),
        (
            1,
            ["engine.sequence_parallel=2"],
            "engine.sequence_parallel: 1 process is no multiple of 2; use 1, or start 2 processes",
        ),
        (
            4,
            ["engine.sequence_parallel=4"],
            "engine.sequence_parallel: 4 ranks cannot share 2 heads of the model; use 1 or 2",
        ),
        (
            2,
            ["engine.sequence_parallel=2", "objective={type: rtd}", "model.hidden_size=128"],
            "engine.sequence_parallel: 2 ranks cannot share 1 head of the generator; use 1",
        ),
        (
            2,
            ["engine.sequence_parallel=2", "data.seq_length=33"],
            "data.seq_length: 33 tokens do not fall into the 2 parts of engine.sequence_parallel; "
            "use 32 or 34, or engine.sequence_parallel=1",
        ),
        (
            2,
            ["engine.sequence_parallel=2", "data.stages=[{after_step: 4, seq_length: 25}]"],
            "data.stages.0.seq_length: 25 tokens do not fall into the 2 parts of engine.sequence_parallel; "
            "use 24 or 26, or engine.sequence_parallel=1",
        ),
        (
            4,
            ["engine.sequence_parallel=2", "train.micro_batch_size=3"],
            "train.global_batch_size: 8 is not micro_batch_size x accumulation_steps x "
            "processes / engine.sequence_parallel = 3 x 1 x 2 = 6; a multiple of ",
        ),
        (
            2,
            [
                "engine.sequence_parallel=2",
                "engine.type=deepspeed",
                "engine.deepspeed={sequence_parallel_size: 2}",
            ],
            "engine.deepspeed.sequence_parallel_size: is set by engine.sequence_parallel; delete it",
        ),
    ],
)
def test_rows_that_cannot_be_shared_are_refused(
    project: "Project", processes: int, arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number to change is named, and what to change it to."""
    assert expected in project.refusal(processes, arguments, monkeypatch)


def test_what_an_error_tells_to_use_is_accepted(project: "Project", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = load(PretrainConfig, "run.yaml", ["engine.sequence_parallel=2", "data.seq_length=34"])
    assert config.batch_sizes == (8, 2)
    assert config.engine.group.count == 2


@pytest.mark.slow
def test_a_run_whose_ranks_share_rows_is_the_same_run(project: "Project") -> None:
    """Two groups of two ranks of ZeRO 2, stopped and finished by one process of accelerate (laws 2 and 3)."""
    job = ["pretrain", "run.yaml", "name=shared"]
    shared = ["engine.type=deepspeed", "engine.zero_stage=2", "engine.sequence_parallel=2"]
    process = project.start(*FOUR, *job, *shared, "checkpoint.every_steps=1000")
    project.wait_for(lambda: project.has_step(10, "shared"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, (project.folder / "out.txt").read_text()
    done = project.lumbre(*job)
    assert done.returncode == 0, done.stderr
    keys = ("loss", "eval/loss", "tokens", "samples")
    for key in keys:
        found, expected = (
            {row["step"]: row[key] for row in project.rows(run) if key in row}
            for run in ("shared", "unbroken")
        )
        assert found.keys() == expected.keys()
        for step, value in found.items():
            assert value == pytest.approx(expected[step], rel=1e-6), f"{key} of step {step}"
