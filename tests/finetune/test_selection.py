"""What evaluations decide: patience, the best weights, and that both go on through a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from finetune.selection import BestEvaluation, SelectionConfig
from lumbre.engine import AccelerateConfig
from lumbre.errors import ConfigError
from lumbre.optim import AdamWConfig


class NoEngine:
    """Nothing is kept of it."""


ENGINE: Any = NoEngine()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 4), st.integers(0, 19))
def test_patience_ends_the_run_after_so_many_evaluations_without_a_better_one(
    values: list[float], patience: int, kill: int
) -> None:
    """By its definition, with a checkpoint and a new process at any place."""
    config = SelectionConfig(patience=patience)
    selection = BestEvaluation(config, "accuracy", Path())
    for at, value in enumerate(values):
        best = max(range(at), key=lambda past: (values[past], -past), default=None)
        assert selection.done == (best is not None and at - 1 - best >= patience)
        if at == kill:
            state, selection = selection.state(), BestEvaluation(config, "accuracy", Path())
            selection.restore(state)
        selection.observe(ENGINE, at, {"accuracy": value, "loss": 3.0})
        if selection.done:
            break


def test_of_a_loss_less_is_better() -> None:
    selection = BestEvaluation(SelectionConfig(metric="loss", patience=1), "accuracy", Path())
    for step, loss in enumerate([2.0, 1.0, 1.5]):
        selection.observe(ENGINE, step, {"loss": loss, "accuracy": 0.0})
    assert selection.done
    assert selection.best_step == 1


def test_a_gain_that_is_too_small_counts_for_nothing() -> None:
    selection = BestEvaluation(SelectionConfig(patience=2, min_gain=0.1), "accuracy", Path())
    for step, value in enumerate([0.5, 0.55, 0.59]):
        selection.observe(ENGINE, step, {"accuracy": value})
    assert (selection.best_step, selection.done) == (0, True)


def test_a_metric_that_no_evaluation_has_is_told_with_those_there_are() -> None:
    selection = BestEvaluation(SelectionConfig(metric="accurcy"), "accuracy", Path())
    with pytest.raises(ConfigError, match="'accurcy'; did you mean 'accuracy'"):
        selection.observe(ENGINE, 1, {"accuracy": 0.5, "loss": 1.0})


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_kept_are_those_of_the_best_evaluation(tmp_path: Path, keep: Any) -> None:
    """Whatever was trained since, the engine has them again, to the bit."""
    torch.manual_seed(0)
    engine = AccelerateConfig().build(nn.Linear(3, 2), AdamWConfig(learning_rate=0.1), 1)
    selection = BestEvaluation(SelectionConfig(keep=keep), "accuracy", tmp_path)
    seen = []
    for step, value in enumerate([0.2, 0.9, 0.3]):
        engine.backward(engine.forward()(torch.ones(1, 3)).sum())
        engine.step(0.1)
        seen.append(engine.module.weight.detach().clone())
        selection.observe(engine, step, {"accuracy": value})
    assert selection.restore_best(engine, 2) == (keep == "best")
    kept = 1 if keep == "best" else 2
    assert selection.kept_step(2) == kept
    assert torch.equal(engine.module.weight.detach(), seen[kept])
