"""What several runs come to: the paired gain, its standard error, and no claim without a spread."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from finetune.comparison import Comparison, show

PRETRAINED = {1: 0.81, 2: 0.84, 3: 0.79, 7: 0.85}
SCRATCH = {1: 0.62, 2: 0.70, 3: 0.66, 7: 0.61}


def comparison(pretrained: dict[int, float], scratch: dict[int, float]) -> Comparison:
    """Return the comparison of these accuracies by seed."""
    both = {"pretrained": pretrained, "scratch": scratch}
    rows = [
        {"model": model, "seed": seed, "accuracy": value, "loss": 1.0}
        for model, of_seed in both.items()
        for seed, value in of_seed.items()
    ]
    return Comparison(["accuracy"], rows)


def strict(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table through JSON as it is specified, which has no NaN."""
    again: dict[str, Any] = json.loads(json.dumps(table, allow_nan=False))
    return again


def test_the_gain_is_paired_by_seed() -> None:
    """Mean and standard error of the differences, as a paired t-test has them."""
    table = strict(comparison(PRETRAINED, dict(reversed(SCRATCH.items()))).table())
    differences = np.array([PRETRAINED[seed] - SCRATCH[seed] for seed in PRETRAINED])
    assert table["gain"]["metric"] == "accuracy"
    assert table["gain"]["mean"] == pytest.approx(differences.mean(), rel=1e-12)
    assert table["gain"]["standard_error"] == pytest.approx(stats.sem(differences), rel=1e-12)
    t = stats.ttest_rel(list(PRETRAINED.values()), list(SCRATCH.values())).statistic
    assert f"{t:.1f} standard errors" in table["summary"]


def test_the_summary_says_all_of_it_in_one_sentence() -> None:
    assert comparison({1: 0.8, 2: 0.9}, {1: 0.5, 2: 0.5}).summary() == (
        "Pretraining brings +35.0 ± 5.0 points of accuracy (0.500 from scratch, 0.850 pretrained; "
        "mean and standard error over 2 seeds, 7.0 standard errors)"
    )


def test_a_loss_is_told_as_a_loss() -> None:
    assert (
        comparison({1: 0.5, 2: 0.4}, {1: 0.6, 2: 0.6}).summary().startswith("Pretraining brings -15.0 ± 5.0")
    )


def test_one_seed_claims_no_spread() -> None:
    """Neither in the sentence nor in results.json, which holds null where nothing is known."""
    alone = comparison({1: 0.8}, {1: 0.5})
    table = strict(alone.table())
    assert table["gain"] == {"metric": "accuracy", "mean": pytest.approx(0.3), "standard_error": None}
    assert alone.summary() == (
        "Pretraining brings +30.0 points of accuracy (0.500 from scratch, 0.800 pretrained; one seed)"
    )


def test_equal_gains_have_no_multiple_of_nothing() -> None:
    assert "standard errors" not in comparison({1: 0.75, 2: 0.5}, {1: 0.5, 2: 0.25}).summary()
    assert "± 0.0 points" in comparison({1: 0.75, 2: 0.5}, {1: 0.5, 2: 0.25}).summary()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({1: 0.8}, "accuracy 0.800 on the test split with one seed"),
        (
            {1: 0.8, 2: 0.7, 3: 0.6},
            "accuracy 0.700, standard deviation 0.100 over 3 seeds, on the test split",
        ),
    ],
)
def test_without_a_comparison_the_seeds_are_summed_up(values: dict[int, float], expected: str) -> None:
    table = strict(comparison(values, {}).table())
    rows = comparison(values, {}).results
    assert table == {"metrics": ["accuracy"], "rows": rows, "summary": expected, "gain": None}
    gain = comparison(values, {}).gain()
    assert gain is None


def test_the_table_shows_every_run_and_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    show(comparison(PRETRAINED, SCRATCH))
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    for model, of_seed in (("pretrained", PRETRAINED), ("scratch", SCRATCH)):
        for seed, value in of_seed.items():
            assert [model, str(seed), f"{value:.3f}", "1.000"] in cells
    assert comparison(PRETRAINED, SCRATCH).summary() in " ".join(shown.split())


def on_a_grid(validation: dict[float, list[float]], test: dict[float, list[float]]) -> Comparison:
    """Return the comparison of runs by learning rate, a seed each place of the lists."""
    rows = [
        {
            "model": "pretrained",
            "seed": seed,
            "point": {"optimizer.learning_rate": rate},
            "split": "test",
            "accuracy": test[rate][seed],
            "validation": {"accuracy": value},
        }
        for rate, values in validation.items()
        for seed, value in enumerate(values)
    ]
    return Comparison(["accuracy"], rows)


def test_the_grids_choice_is_made_on_validation_and_told_on_test() -> None:
    """The setting that happens to be best on test is not looked at."""
    grid = on_a_grid({1e-4: [0.8, 0.8], 1e-3: [0.9, 0.6]}, {1e-4: [0.5, 0.7], 1e-3: [0.99, 0.99]})
    assert grid.chosen("pretrained")[0] == {"optimizer.learning_rate": 1e-4}
    assert grid.of("pretrained") == {0: 0.5, 1: 0.7}
    assert grid.table()["chosen"] == {"pretrained": {"optimizer.learning_rate": 1e-4}}
    assert grid.summary() == (
        "Of 2 settings the best on validation is optimizer.learning_rate 0.0001 (accuracy 0.800 there). "
        "accuracy 0.600, standard deviation 0.141 over 2 seeds, on the test split"
    )


def test_the_grids_table_has_validation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    show(on_a_grid({1e-4: [0.8], 1e-3: [0.9]}, {1e-4: [0.123], 1e-3: [0.5]}))
    shown = capsys.readouterr().out
    assert "0.800" in shown
    assert "0.900" in shown
    assert "0.500" in shown
    assert "0.123" not in shown
