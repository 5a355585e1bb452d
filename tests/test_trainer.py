"""The loop where a run can no longer learn."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from lumbre.checkpoint import CheckpointConfig, Checkpoints
from lumbre.engine import AccelerateConfig, Engine
from lumbre.errors import TrainingError
from lumbre.hardware import Peak
from lumbre.optim import AdamWConfig, ConstantConfig
from lumbre.tracking import Trackers
from lumbre.trainer import Batch, LossOutput, Term, TrainConfig, Trainer


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


def test_a_gradient_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(tmp_path: Path) -> None:
    poisoned, optimizer = Poisoned(), AdamWConfig(learning_rate=0.1)
    checkpoints = Checkpoints(tmp_path, keep=9)
    trainer = Trainer(
        config=TrainConfig(steps=8, global_batch_size=2, micro_batch_size=2),
        seed=1,
        optimizer=optimizer,
        schedule=ConstantConfig(warmup=0.0),
        checkpoint=CheckpointConfig(every_steps=1),
        engine=AccelerateConfig().build(nn.Linear(3, 1), optimizer, 2),
        learner=poisoned,
        batches=lambda start: poisoned,
        evaluator=poisoned,
        checkpoints=checkpoints,
        identity=lambda steps: {},
        trackers=lambda start: Trackers(),
        samples=lambda steps: 2 * steps,
        flops=None,
        peak=Peak(1.0, "none"),
    )
    with pytest.raises(
        TrainingError, match=r"step 4: the gradient is nan; .* goes on from the last checkpoint"
    ):
        trainer.fit()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000003"
