"""Evaluations of a whole split: what each example alone comes to, whatever goes together in a batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.data import Examples
from finetune.evaluation import TaskEvaluator, spans
from finetune.examples import Skips, Split, encoded, usable
from finetune.tasks import Classification, Predicted
from lumbre.engine import AccelerateConfig
from lumbre.optim import AdamWConfig


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_metrics_and_loss_are_those_of_the_examples_one_by_one(
    task: Classification, examples: Examples, folders: dict[str, Path], batch_size: int
) -> None:
    split = encoded(task, usable(task.config, examples, "error", Skips()), "error", Skips())["train"]
    torch.manual_seed(2)
    model = task.build_model(str(folders["bert"]), from_scratch=False).model
    engine = AccelerateConfig().build(model, AdamWConfig(learning_rate=1e-3), 1)
    engine.forward().eval()
    evaluator = TaskEvaluator(task, split, batch_size)
    with torch.no_grad():
        metrics = evaluator.evaluate(engine)
        alone = [task.predict(model, task.collate([row])) for row in split.rows]
    assert metrics["loss"] == pytest.approx(sum(one.loss for one in alone) / len(alone), rel=1e-5)
    expected = task.decide(split.examples, [one.outputs for one in alone])
    found = evaluator.predictions
    assert [one["prediction"] for one in found] == [one["prediction"] for one in expected]
    for name, value in task.score(split.examples, expected).items():
        assert metrics[name] == pytest.approx(value)
    assert evaluator.metrics == metrics


class Numbers:
    """A task whose outputs are the rows' numbers."""

    generates = False

    def length(self, row: dict[str, int]) -> int:
        return row["length"]

    def collate(self, rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor([row["number"] for row in rows])}

    def predict(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Predicted:
        return Predicted(batch["number"].tolist())

    def decide(self, examples: list[Any], outputs: list[list[int]]) -> list[dict[str, Any]]:
        return [{"prediction": rows} for rows in outputs]

    def score(self, examples: list[Any], predictions: list[dict[str, Any]]) -> dict[str, float]:
        return {"accuracy": 0.0}


@given(
    st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), min_size=1, max_size=9), st.integers(1, 5)
)
def test_an_example_gets_the_outputs_of_its_rows_in_their_order(
    lengths: list[list[int]], batch_size: int
) -> None:
    """Whatever their lengths: strides of a context are told by their place."""
    rows: list[Any] = [{"length": length} for its in lengths for length in its]
    for number, row in enumerate(rows):
        row["number"] = number
    example_of = [at for at, its in enumerate(lengths) for _ in its]
    task: Any = Numbers()
    split = Split(examples=[{} for _ in lengths], rows=rows, example_of=example_of)
    evaluator = TaskEvaluator(task, split, batch_size)
    engine: Any = AccelerateConfig().build(torch.nn.Linear(1, 1), AdamWConfig(learning_rate=1e-3), 1)
    assert evaluator.evaluate(engine) == {"accuracy": 0.0}
    found = [one["prediction"] for one in evaluator.predictions]
    assert [number for its in found for number in its] == list(range(len(rows)))
    assert [len(its) for its in found] == [len(its) for its in lengths]


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 20))
def test_batches_hold_every_row_once_and_no_more_tokens_than_so_many_of_the_longest(
    lengths: list[int], batch_size: int
) -> None:
    batches = spans(lengths, batch_size)
    assert sorted(at for batch in batches for at in batch) == list(range(len(lengths)))
    budget = batch_size * max(lengths, default=0)
    assert all(len(batch) * max(lengths[at] for at in batch) <= budget for batch in batches)
