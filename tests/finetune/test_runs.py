"""The runs that a config asks for, and when one that is complete is not run again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.config import FinetuneConfig
from finetune.examples import Split
from finetune.identity import fingerprints, identity, recipe
from finetune.run import recall
from finetune.tasks import Classification
from finetune.variants import variants
from lumbre.config import load
from lumbre.errors import ConfigError

INPUTS = {"model files": "m", "data examples": "d"}


@pytest.fixture
def base(folders: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Return the least that a run needs."""
    return {
        "name": "fine",
        "runs_folder": str(tmp_path / "runs"),
        "model": {"path": str(folders["bert"])},
        "task": {"type": "classification", "max_length": 32},
        "data": {"type": "stdlib_functions"},
        "optimizer": {"type": "adamw", "learning_rate": 1e-3},
        "train": {"steps": 10, "global_batch_size": 8, "micro_batch_size": 4},
    }


def read(base: dict[str, Any], folder: Path, *overrides: str) -> FinetuneConfig:
    """Return the config as the command reads it."""
    (folder / "fine.yaml").write_text(yaml.safe_dump(base))
    return load(FinetuneConfig, folder / "fine.yaml", overrides)


def test_each_seed_runs_from_each_start_in_a_folder_of_its_own(base: dict[str, Any], tmp_path: Path) -> None:
    config = read(base, tmp_path, "seeds=[4, 9]", "compare_with_scratch=true")
    runs = variants(config)
    assert [(run.start, run.config.seed, run.config.model.from_scratch) for run in runs] == [
        ("pretrained", 4, False),
        ("scratch", 4, True),
        ("pretrained", 9, False),
        ("scratch", 9, True),
    ]
    assert len({run.config.folder for run in runs}) == 4
    assert {run.config.folder.parent for run in runs} == {config.folder}
    assert runs[1].title == "fine/scratch-seed-4"


@pytest.mark.parametrize(("override", "seed"), [("seed=6", 6), ("seeds=[7]", 7)])
def test_a_single_run_is_the_run_folder_itself(
    base: dict[str, Any], tmp_path: Path, override: str, seed: int
) -> None:
    config = read(base, tmp_path, override)
    (run,) = variants(config)
    assert (run.config.folder, run.config.seed, run.title) == (config.folder, seed, "fine")


def test_a_variants_config_asks_for_that_run_alone(base: dict[str, Any], tmp_path: Path) -> None:
    """The config.yaml of a run among others can be run again by itself."""
    for run in variants(read(base, tmp_path, "seeds=[4, 9]", "compare_with_scratch=true")):
        (alone,) = variants(run.config)
        assert alone.config == run.config
        assert alone.start == run.start


def wanted(config: FinetuneConfig) -> dict[str, Any]:
    """Return the recipe of the run on 64 rows."""
    return recipe(config, INPUTS, config.train.resolved(64, config.batch_sizes[0]).steps)


def finished(config: FinetuneConfig) -> dict[str, Any]:
    """Leave what a complete run leaves; return its row."""
    row = {"model": "pretrained", "seed": 1, "accuracy": 0.5}
    (config.folder / "model").mkdir(parents=True)
    result = {"rows": [row], "recipe": wanted(config)}
    (config.folder / "results.json").write_text(json.dumps(result))
    return row


@pytest.mark.parametrize(
    "override",
    ["tracking=[{type: wandb}]", "train.log_every=3", "eval_batch_size=2", "train.micro_batch_size=2"],
)
def test_a_result_is_recalled_where_nothing_that_shapes_it_has_changed(
    base: dict[str, Any], tmp_path: Path, override: str
) -> None:
    row = finished(read(base, tmp_path))
    config = read(base, tmp_path, override)
    assert recall(config.folder, wanted(config)) == (row, "")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.learning_rate=2.0e-3", "optimizer.learning_rate: it has 0.001, this run 0.002"),
        ("schedule.warmup=0.5", "schedule.warmup: it has 0.1, this run 0.5"),
        ("seed=2", "seed: it has 1, this run 2"),
        ("task.max_length=16", "task.max_length: it has 32, this run 16"),
        ("data.train_limit=100", "data.train_limit: it has None, this run 100"),
        ("train.steps=5", "train.steps: it has 10, this run 5"),
        ("model.from_scratch=true", "model.from_scratch: it has False, this run True"),
        ("engine.precision=float64", "engine.precision: it has 'float32', this run 'float64'"),
    ],
)
def test_a_result_of_other_settings_is_refused_by_name(
    base: dict[str, Any], tmp_path: Path, override: str, expected: str
) -> None:
    """A complete run trains no more: its numbers must not be told as those of another config."""
    finished(read(base, tmp_path))
    config = read(base, tmp_path, override)
    row, fault = recall(config.folder, wanted(config))
    assert row is None
    first, *lines = fault.splitlines()
    assert first == f"{config.folder}: is complete with other settings; set another name, or the keys back:"
    assert len(lines) == 1
    assert expected in lines[0]


def test_more_steps_go_on_with_a_complete_run(base: dict[str, Any], tmp_path: Path) -> None:
    finished(read(base, tmp_path))
    config = read(base, tmp_path, "train.steps=20")
    assert recall(config.folder, wanted(config)) == (None, "")


def test_a_run_without_its_model_is_not_complete(base: dict[str, Any], tmp_path: Path) -> None:
    config = read(base, tmp_path)
    finished(config)
    shutil.rmtree(config.folder / "model")
    assert recall(config.folder, wanted(config)) == (None, "")


def split(task: Classification, *pairs: tuple[str, str]) -> dict[str, Split]:
    """Return texts and labels as a training split."""
    return {
        "train": Split(rows=[row for text, y in pairs for row in task.encode({"text": text, "label": y})])
    }


def test_what_a_run_reads_is_part_of_its_identity(
    base: dict[str, Any], tmp_path: Path, folders: dict[str, Path], task: Classification
) -> None:
    """A record or a weight that has changed in place makes it another run; reading twice does not."""
    rows = split(task, ("def build", "a"), ("def build", "b"))
    model = tmp_path / "model"
    shutil.copytree(folders["bert"], model)
    before = fingerprints(str(model), rows)
    assert fingerprints(str(model), rows) == before == fingerprints(str(folders["bert"]), rows)
    changed = split(task, ("def build", "a"), ("def built", "b"))
    other = fingerprints(str(model), changed)
    assert other["data examples"] != before["data examples"]
    assert other["model files"] == before["model files"]
    relabelled = split(task, ("def build", "a"), ("def build", "a"))
    assert fingerprints(str(model), relabelled)["data examples"] != before["data examples"]
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    assert fingerprints(str(model), rows)["model files"] != before["model files"]
    config = read(base, tmp_path)
    assert before.items() <= identity(config, before).items() <= recipe(config, before, 10).items()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model.path=runs/nowhere/model"],
            "model.path: runs/nowhere/model does not exist; a pretraining run",
        ),
        (["model.path=tests"], "model.path: tests is not a model folder"),
        (
            ["task.max_length=49"],
            "task.max_length: 49 tokens, and the model has 48 positions; set it to 48 or",
        ),
        (["train.steps=null"], "train.steps: the length is not told; set one of steps and epochs"),
        (["train.epochs=2"], "train.steps: the length is told twice"),
        (
            ["grid={optimizer.learning_rat: [1]}"],
            "grid.optimizer.learning_rat: is no key of a run; such keys are optimizer.learning_rate",
        ),
        (["grid={train.steps: []}"], "grid.train.steps: has no value; give a list of values"),
        (["selection.min_gain=0.1"], "selection.min_gain: nothing is chosen by it"),
        (
            ["engine.liger=true"],
            "engine.liger: is for our own blocks, and models of transformers have theirs",
        ),
        (["method.type=qlora", "compare_with_scratch=true"], "method.type: qlora trains beside weights of 4"),
        (
            ["method.type=qlora", "engine.type=deepspeed", "engine.zero_stage=3"],
            "engine.zero_stage: ZeRO 3 takes weights apart",
        ),
        (["seeds=[1, 1]"], "seeds: [1, 1] repeats a seed"),
        (["seeds=[18446744073709551616]"], "seeds.0: should be less than 9223372036854775808"),
        (["model.from_scratch=true", "compare_with_scratch=true"], "compare_with_scratch: the model is from"),
        (
            ["task.type=clasification"],
            "task.type: unknown type 'clasification'; did you mean 'classification'?",
        ),
        (["grid={optimizer.learning_rate: [1.0e-3, fast]}"], "grid.optimizer.learning_rate: 'fast': "),
        (["selection.metric=eval_acc"], "selection.metric: an evaluation has no 'eval_acc'"),
    ],
)
def test_a_misfit_is_told_before_anything_is_read(
    base: dict[str, Any], tmp_path: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(base, tmp_path, *overrides)
    assert expected in str(caught.value)


def test_gpt2_states_its_limit_in_its_own_words(
    base: dict[str, Any], tmp_path: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match="49 tokens, and the model has 48 positions"):
        read(base, tmp_path, f"model.path={folders['gpt2']}", "task.max_length=49")


def test_every_point_of_a_grid_runs_with_every_seed(base: dict[str, Any], tmp_path: Path) -> None:
    grid = "grid={optimizer.learning_rate: [1.0e-4, 1.0e-3], train.epochs: [1, 2.5]}"
    runs = variants(read(base, tmp_path, grid, "seeds=[4, 9]"))
    found = [(run.config.optimizer.learning_rate, run.config.train.epochs, run.config.seed) for run in runs]
    assert found == [(rate, epochs, seed) for rate in (1e-4, 1e-3) for epochs in (1, 2.5) for seed in (4, 9)]
    assert all(run.config.train.steps is None for run in runs)
    assert len({run.config.folder for run in runs}) == 8
    assert runs[-1].point == {"optimizer.learning_rate": 1e-3, "train.epochs": 2.5}


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ("grid={optimizer.learning_rate: [-1]}", "grid.optimizer.learning_rate: -1: "),
        ("grid={train.global_batch_size: [6]}", "train.global_batch_size: 6 is not micro_batch_size x"),
    ],
)
def test_a_value_of_the_grid_that_cannot_be_is_told_before_the_first_run(
    base: dict[str, Any], tmp_path: Path, grid: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        variants(read(base, tmp_path, grid))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("epochs", "rows", "steps", "evals"), [(1, 16, 2, 2), (2.5, 17, 6, 3), (0.01, 9, 1, 2)]
)
def test_epochs_become_steps(
    base: dict[str, Any], tmp_path: Path, epochs: float, rows: int, steps: int, evals: int
) -> None:
    """With a global batch of 8: passes over the rows, each followed by an evaluation."""
    config = read(base, tmp_path, "train.steps=null", f"train.epochs={epochs}")
    length = config.train.resolved(rows, config.batch_sizes[0])
    assert (length.steps, length.eval_every, config.batch_sizes) == (steps, evals, (8, 4))
