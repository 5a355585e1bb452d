"""Two runs against each other: the tests are scipy's and the randomization's own law."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from finetune.compare import compare
from lumbre.errors import RunFolderError

A = {1: 0.81, 2: 0.84, 3: 0.79, 7: 0.85}
B = {7: 0.61, 3: 0.66, 2: 0.70, 1: 0.62}


def made(folder: Path, by_seed: dict[int, float], metric: str = "accuracy", scores: Any = None) -> Path:
    """Leave what a complete run of several seeds leaves."""
    rows = [
        {"model": "pretrained", "seed": seed, "split": "test", metric: value, "run": f"seed-{seed}"}
        for seed, value in by_seed.items()
    ]
    for number, row in enumerate(rows):
        (folder / str(row["run"])).mkdir(parents=True)
        if scores is not None:
            lines = [
                json.dumps({"input": at, "prediction": "x", "score": float(score)})
                for at, score in enumerate(scores[number])
            ]
            (folder / str(row["run"]) / "predictions-test.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "results.json").write_text(json.dumps({"metrics": [metric], "rows": rows}))
    return folder


def test_the_same_seeds_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (verdict,) = compare(made(tmp_path / "a", A), made(tmp_path / "b", B))
    pairs = [(A[seed], B[seed]) for seed in A]
    assert verdict.p == pytest.approx(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue, rel=1e-12)
    assert verdict.difference == pytest.approx(np.mean(list(B.values())) - np.mean(list(A.values())))
    shown = " ".join(capsys.readouterr().out.split())
    assert "paired t-test over 4 seeds: -0.1750" in shown


def test_other_seeds_are_not(tmp_path: Path) -> None:
    other = {seed + 10: value for seed, value in B.items()}
    (verdict,) = compare(made(tmp_path / "a", A), made(tmp_path / "b", other))
    welch = stats.ttest_ind(list(A.values()), list(B.values()), equal_var=False)
    assert verdict.p == pytest.approx(welch.pvalue, rel=1e-12)


def test_one_seed_says_nothing_about_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(made(tmp_path / "a", {1: 0.5}), made(tmp_path / "b", {1: 0.9})) == []
    assert "nothing can be said about chance" in capsys.readouterr().out


def test_the_randomization_over_examples_is_the_sign_test_where_scores_are_marks(tmp_path: Path) -> None:
    """With one seed and scores of 0 and 1 it has McNemar's exact distribution."""
    a, b = np.ones(60), np.ones(60)
    a[:14], b[14:19] = 0, 0
    sides = (made(tmp_path / "a", {1: a.mean()}, scores=[a]), made(tmp_path / "b", {1: b.mean()}, scores=[b]))
    (verdict,) = compare(*sides)
    exact = stats.binomtest(14, 19).pvalue
    assert verdict.difference == pytest.approx(9 / 60)
    assert verdict.p == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000))


def test_runs_told_by_other_metrics_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is told by accuracy and .* is told by f1"):
        compare(made(tmp_path / "a", A), made(tmp_path / "b", B, "f1"))


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nowhere: has no results.json of a complete fine-tuning run"):
        compare(tmp_path / "nowhere", made(tmp_path / "b", B))
