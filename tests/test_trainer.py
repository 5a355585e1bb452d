"""The loop where a run ends before its last step: it can no longer learn, or its evaluations say so."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lumbre.checkpoint import CheckpointConfig, Checkpoints
from lumbre.engine import AccelerateConfig, Engine
from lumbre.errors import ExitStatus, TrainingError
from lumbre.hardware import Peak
from lumbre.optim import AdamWConfig, ConstantConfig
from lumbre.tracking import Row, Trackers
from lumbre.trainer import Batch, LossOutput, Selection, Term, TrainConfig, Trainer


class Poisoned:
    """Learner, batches and evaluator of a linear map whose fourth step has a NaN in its data."""

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"loss": float(len(batch["x"]))}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x"])

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        return LossOutput({"loss": Term(model(batch["x"]).square().sum(), float(len(batch["x"])))})

    def evaluate(self, engine: Engine) -> dict[str, float]:
        return {}

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        for step in range(1, 9):
            yield [{"x": torch.full((2, 3), float("nan") if step == 4 else 1.0)}]

    def close(self) -> None:
        """Nothing runs."""


class Rows:
    """A tracker that keeps what it gets."""

    name = "rows"

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def log(self, row: Row) -> None:
        self.rows.append(row)

    def finish(self, exit_status: int) -> None:
        """Nothing is left to send."""


class SecondEvaluation:
    """Ends a run at its second evaluation."""

    def __init__(self) -> None:
        self.seen = 0

    @property
    def done(self) -> bool:
        return self.seen >= 2

    def observe(self, engine: Engine, step: int, metrics: Mapping[str, float]) -> None:
        self.seen += 1

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]


def made(
    folder: Path,
    data: Poisoned,
    every: int,
    selection: Selection | None = None,
    trackers: Trackers | None = None,
) -> Trainer:
    """Return a loop of eight steps over the data, evaluated after every second."""
    optimizer = AdamWConfig(learning_rate=0.1)
    return Trainer(
        config=TrainConfig(steps=8, global_batch_size=2, micro_batch_size=2, eval_every=2),
        seed=1,
        optimizer=optimizer,
        schedule=ConstantConfig(warmup=0.0),
        checkpoint=CheckpointConfig(every_steps=every),
        engine=AccelerateConfig().build(nn.Linear(3, 1), optimizer, 2),
        learner=data,
        batches=lambda start: data,
        evaluator=data,
        checkpoints=Checkpoints(folder, keep=9),
        identity=lambda steps: {},
        trackers=lambda start: trackers or Trackers(),
        samples=lambda steps: 2 * steps,
        flops=None,
        peak=Peak(1.0, "none"),
        selection=selection,
    )


def test_a_gradient_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    trainer = made(tmp_path, Poisoned(), every=1)
    with pytest.raises(
        TrainingError, match=r"step 4: the gradient is nan; .* goes on from the last checkpoint"
    ):
        trainer.fit()
    latest = trainer.checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000003"


class Sound(Poisoned):
    """The same without a fault."""

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        for _ in range(8):
            yield [{"x": torch.ones(2, 3)}]


@pytest.mark.parametrize("every", [3, 4])
def test_a_run_that_its_evaluations_end_is_saved_there_and_ends_at_once_when_asked_again(
    tmp_path: Path, every: int
) -> None:
    """Whether or not a checkpoint was due after that step."""
    rows = Rows()
    trainer = made(tmp_path, Sound(), every, SecondEvaluation(), Trackers([rows]))
    assert trainer.fit() == ExitStatus.DONE
    assert trainer.step == 4
    assert [row["step"] for row in rows.rows if row.get("event") == "early_stop"] == [4]
    latest = trainer.checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000004"
    again = made(tmp_path, Sound(), every, selection := SecondEvaluation(), Trackers([rows]))
    assert again.restore() == 4
    before = len([row for row in rows.rows if "loss" in row])
    assert again.fit() == ExitStatus.DONE
    assert (again.step, selection.seen) == (4, 2)
    assert len([row for row in rows.rows if "loss" in row]) == before
