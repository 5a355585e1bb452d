"""`engine.tensor_parallel` by the command that users run: checked before the start, and the same run."""

import signal
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from finetune.config import FinetuneConfig
from lumbre.config import load
from lumbre.errors import ConfigError
from pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from .conftest import Project

DEEPSPEED = "engine.type=deepspeed"
TWO = ["engine.tensor_parallel=2", DEEPSPEED]
FREE = ["train.micro_batch_size=null", "train.accumulation_steps=8"]


@pytest.mark.parametrize(
    ("processes", "arguments", "expected"),
    [
        (
            3,
            [*TWO, *FREE],
            "engine.tensor_parallel: 3 processes are no multiple of 2; use 1 or 3, or start 4 processes",
        ),
        (
            4,
            ["engine.tensor_parallel=4", DEEPSPEED],
            "engine.tensor_parallel: 4 ranks cannot share 2 heads of the model; use 1 or 2",
        ),
        (
            2,
            [*TWO, "model.num_kv_heads=1"],
            "engine.tensor_parallel: 2 ranks cannot share 1 key/value head of the model; use 1",
        ),
        (
            2,
            [*TWO, "model.intermediate_size=33"],
            "engine.tensor_parallel: 2 ranks cannot share 33 numbers inside the MLP of the model; use 1",
        ),
        (
            2,
            [*TWO, "objective={type: rtd}", "model.hidden_size=128"],
            "engine.tensor_parallel: 2 ranks cannot share 1 head of the generator; use 1",
        ),
        (
            2,
            [*TWO, "model.mlp={type: mixture_of_experts, num_experts: 4}"],
            "engine.tensor_parallel: ranks share the matrices of one MLP, and the model has experts; use 1; "
            "engine.zero_stage=3 shares experts out over ranks too",
        ),
        (
            2,
            [*TWO, "engine.zero_stage=3"],
            "engine.zero_stage: stage 3 shares out parameters by themselves, and tensor_parallel has shared "
            "them already; use 2, or tensor_parallel: 1",
        ),
        (
            2,
            ["engine.tensor_parallel=2"],
            "engine.tensor_parallel: every rank has the whole model with accelerate; "
            "use engine.type=deepspeed, or 1",
        ),
        (
            6,
            [*TWO, "engine.sequence_parallel=2", "train.global_batch_size=12", "train.micro_batch_size=null"],
            "engine.tensor_parallel: 6 processes are no multiple of sequence_parallel x tensor_parallel = 4; "
            "use 1, or start 4 processes",
        ),
        (
            4,
            [*TWO, "engine.sequence_parallel=2"],
            "engine.sequence_parallel: 2 ranks cannot share 1 head of the model that "
            "engine.tensor_parallel=2 leaves each; use 1",
        ),
        (
            4,
            [*TWO, "train.micro_batch_size=3"],
            "train.global_batch_size: 8 is not micro_batch_size x accumulation_steps x "
            "processes / engine.tensor_parallel = 3 x 1 x 2 = 6; a multiple of ",
        ),
        (
            2,
            [*TWO, "train.spikes=quarantine"],
            "train.spikes: no document is one rank's alone with engine.tensor_parallel; use roll_back",
        ),
        (
            2,
            [DEEPSPEED, "engine.deepspeed={tensor_parallel: {autotp_size: 2}}"],
            "engine.deepspeed.tensor_parallel: is set by engine.tensor_parallel; delete it, and set "
            "engine.tensor_parallel instead",
        ),
    ],
)
def test_matrices_that_cannot_be_shared_are_refused(
    project: "Project", processes: int, arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number to change is named, and what to change it to."""
    assert expected in project.refusal(processes, arguments, monkeypatch)


@pytest.mark.parametrize("kind", ["muon", "lamb"])
def test_an_optimizer_of_whole_matrices_is_refused(
    project: "Project", kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=f"tensor_parallel: {kind} looks at whole matrices"):
        load(PretrainConfig, "run.yaml", [*TWO, f"optimizer.type={kind}"])


def test_fine_tuning_refuses_matrices_that_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"engine\.tensor_parallel: matrices are shared out by our own"):
        load(FinetuneConfig, "quickstart", TWO, room="finetune")


def test_what_an_error_tells_to_use_is_accepted(project: "Project", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = load(PretrainConfig, "run.yaml", [*TWO, "model.intermediate_size=34", "engine.zero_stage=2"])
    assert config.batch_sizes == (8, 2)
    assert config.engine.group.count == 2


@pytest.mark.slow
def test_a_run_whose_ranks_share_matrices_is_the_same_run(project: "Project") -> None:
    """Two by two ranks of ZeRO 2, stopped, and finished and exported by two of ZeRO 1 (laws 2 and 3)."""
    job = ["--", "pretrain", "run.yaml", "name=tensor", *TWO]
    local = ["launch", "local", "threads_per_process=1"]
    stopped = [*local, "processes=4", *job, "engine.zero_stage=2", "checkpoint.every_steps=1000"]
    process = project.start(*stopped)
    project.wait_for(lambda: project.has_step(10, "tensor"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75, (project.folder / "out.txt").read_text()
    done = project.lumbre(*local, "processes=2", *job)
    assert done.returncode == 0, done.stderr
    for key in ("loss", "grad_norm", "eval/loss", "tokens", "samples"):
        found, expected = (
            {row["step"]: row[key] for row in project.rows(run) if key in row}
            for run in ("tensor", "unbroken")
        )
        assert found.keys() == expected.keys()
        for step, value in found.items():
            assert value == pytest.approx(expected[step], rel=1e-6 if key != "grad_norm" else 1e-4), key
    weights, plain = (
        load_file(project.folder / "runs" / run / "model" / "model.safetensors")
        for run in ("tensor", "unbroken")
    )
    assert weights.keys() == plain.keys()
    for name, whole in plain.items():
        assert weights[name].shape == whole.shape
        # Where a gradient is next to nothing, Adam makes a whole step of its rounding.
        assert (weights[name] - whole).norm() <= 1e-3 * whole.norm() + 1e-4, name
