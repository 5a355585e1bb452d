"""The loop where a run ends before its last step: it can no longer learn, or its evaluations say so."""

import shutil
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
from lumbre.trainer import Batch, LossOutput, NonFiniteConfig, Selection, Term, TrainConfig, Trainer


class Poisoned:
    """Learner, batches and evaluator of a linear map; some steps have a NaN in their data, others an infinity
    in their loss alone, whose gradient is finite."""

    def __init__(self, nan: Sequence[int] = (4,), infinite: Sequence[int] = ()) -> None:
        self.nan, self.infinite = nan, infinite
        self.start = 0

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"loss": float(len(batch["x"]))}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x"])

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        loss = model(batch["x"]).square().sum() + batch["more"]
        return LossOutput({"loss": Term(loss, float(len(batch["x"])))})

    def evaluate(self, engine: Engine) -> dict[str, float]:
        return {}

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        for step in range(self.start + 1, 9):
            x = torch.full((2, 3), float("nan") if step in self.nan else 1.0 + step / 10)
            yield [{"x": x, "more": torch.tensor(float("inf") if step in self.infinite else 0.0)}]

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
    non_finite: NonFiniteConfig | None = None,
) -> Trainer:
    """Return a loop of eight steps over the data, evaluated after every second."""
    optimizer = AdamWConfig(learning_rate=0.1)
    torch.manual_seed(0)

    def batches(start: int) -> Poisoned:
        data.start = start
        return data

    return Trainer(
        config=TrainConfig(
            steps=8,
            global_batch_size=2,
            micro_batch_size=2,
            eval_every=2,
            log_every=1,
            non_finite=non_finite or NonFiniteConfig(),
            roll_backs=1,
        ),
        seed=1,
        optimizer=optimizer,
        schedule=ConstantConfig(warmup=0.0),
        engine=AccelerateConfig().build(nn.Linear(3, 1), optimizer, 2),
        learner=data,
        batches=batches,
        evaluator=data,
        checkpoints=Checkpoints(folder, CheckpointConfig(every_steps=every, keep=9)),
        identity=lambda steps: {},
        trackers=lambda start: trackers or Trackers(),
        samples=lambda steps: 2 * steps,
        flops=None,
        peak=Peak(1.0, "none"),
        selection=selection,
    )


def test_a_gradient_that_is_not_finite_ends_a_run_that_says_so_and_spoils_no_checkpoint(
    tmp_path: Path,
) -> None:
    trainer = made(tmp_path, Poisoned(), every=1, non_finite=NonFiniteConfig(skip=0, then="stop"))
    with pytest.raises(
        TrainingError,
        match=r"step 4: the loss is nan, 1 in a row, .*non_finite.then is stop; .*from the last checkpoint",
    ):
        trainer.fit()
    latest = trainer.checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000003"


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return copies of the weights."""
    return {name: tensor.clone() for name, tensor in trainer.engine.module.state_dict().items()}


def fitted(folder: Path, data: Poisoned, every: int = 2, **keys: Any) -> tuple[Trainer, list[Row]]:
    """Train to the end; return the loop and its rows."""
    rows = Rows()
    trainer = made(folder, data, every, trackers=Trackers([rows]), **keys)
    trainer.restore()
    assert trainer.fit() == ExitStatus.DONE
    return trainer, rows.rows


def events(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return the names and steps of what has happened."""
    return [(row["event"], row["step"]) for row in rows if "event" in row]


@pytest.mark.parametrize("data", [Poisoned([4]), Poisoned([], [4])], ids=["nan", "infinite loss"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_told(tmp_path: Path, data: Poisoned) -> None:
    """The weights are those of the other steps taken by hand."""
    trainer, rows = fitted(tmp_path, data)
    assert events(rows) == [("step_skipped", 4)]
    assert (
        "nothing was updated (1 in a row, 1 in all)" in next(row for row in rows if "event" in row)["message"]
    )
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = AdamWConfig(learning_rate=0.1).build(model.named_parameters())
    for step in (1, 2, 3, 5, 6, 7, 8):
        (model(torch.full((2, 3), 1.0 + step / 10)).square().sum() / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    found = weights(trainer)
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_a_run_that_skipped_a_step_goes_on_from_its_checkpoint_to_the_bit(tmp_path: Path) -> None:
    """The optimizer has taken a step less than the run, and the next skipped step is the second (law 3)."""
    data = Poisoned([4, 7])
    whole, rows = fitted(tmp_path, data)
    for step in (7, 8):
        shutil.rmtree(tmp_path / f"step-{step:08d}", ignore_errors=True)
    again, later = fitted(tmp_path, data)
    one, two = weights(whole), weights(again)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert later[0]["message"] == "from step 6"
    told = [row["message"] for row in rows if row.get("event") == "step_skipped"]
    assert told[1].endswith("(1 in a row, 2 in all)")
    assert [row["message"] for row in later if row.get("event") == "step_skipped"] == told[1:]


def test_too_many_in_a_row_roll_back_once_and_pass_over_the_data(tmp_path: Path) -> None:
    """Saved every second step: after steps 5 and 6 the weights are those of step 4, and step 7 comes next."""
    trainer, rows = fitted(tmp_path, Poisoned([3, 6, 7]), 4, non_finite=NonFiniteConfig(skip=1))
    names = [("step_skipped", 3), ("step_skipped", 6), ("step_skipped", 7), ("rolled_back", 7)]
    assert events(rows) == names
    reference, _ = fitted(
        tmp_path / "reference", Poisoned([3, 5, 6, 7]), 4, non_finite=NonFiniteConfig(skip=3)
    )
    one, two = weights(trainer), weights(reference)
    assert all(torch.equal(one[name], two[name]) for name in one)
    saved = [trainer.checkpoints.state(folder) for folder in sorted(tmp_path.glob("step-*"))]
    assert [(state["step"], state["updates"]) for state in saved] == [(4, 3), (7, 3), (8, 4)]


@pytest.mark.parametrize(
    ("data", "every", "said"),
    [
        (Poisoned([2, 3]), 4, r"step 3: .*there is no checkpoint to go back to .checkpoint.every_steps"),
        (Poisoned([3, 4, 5, 6]), 2, r"step 6: .*it has rolled back 1 times .train.roll_backs"),
    ],
)
def test_a_run_that_nothing_helps_ends_and_says_why(
    tmp_path: Path, data: Poisoned, every: int, said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        fitted(tmp_path, data, every, non_finite=NonFiniteConfig(skip=1))


class Sound(Poisoned):
    """The same without a fault."""

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        for _ in range(8):
            yield [{"x": torch.ones(2, 3), "more": torch.zeros(())}]


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
