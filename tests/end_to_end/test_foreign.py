"""A checkpoint of another model, tokenizer or data set is refused before any step; nothing is overwritten."""

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .test_finetune import CONFIG as TASK
from .test_finetune import write_task

if TYPE_CHECKING:
    from .conftest import Project

pytestmark = pytest.mark.slow

RANKS = ["launch", "local", "processes=2", "threads_per_process=1", "--"]
HASH = "'[0-9a-f]+'"
FOREIGN = {
    "model": ("model.hidden_size=32", "model.hidden_size: it has 16, this run 32"),
    "depth": ("model.num_layers=1", "model.num_layers: it has 2, this run 1"),
    "tokenizer": ("tokenizer.vocab_size=560", f"tokenizer: it has {HASH}, this run {HASH}"),
    "data set": ("data.sources.0.paths=[other]", f"data.corpus: it has {HASH}, this run {HASH}"),
    "objective": ("objective.mask_probability=0.3", r"objective.mask_probability: it has 0.15, this run 0.3"),
}


@pytest.fixture(scope="module")
def run(project: "Project") -> "Project":
    """Return the project with a run `foreign` that has stopped at its first checkpoint, and more text."""
    folder = project.folder
    shutil.copytree(folder / "corpus", folder / "other")
    (folder / "other/more.txt").write_text("One more paragraph, that no other corpus has.\n")
    shutil.copytree(folder / "runs/unbroken", folder / "runs/foreign")
    for late in ("checkpoints/step-00000024", "model"):
        shutil.rmtree(folder / "runs/foreign" / late)
    return project


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a run but its lock and the record of its end."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name not in (".lock", "exit.json")
    }


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_checkpoint_is_refused_and_left_as_it_is(run: "Project", kind: str) -> None:
    """The error names what differs and the remedy; config, metrics and checkpoints stay byte for byte."""
    override, expected = FOREIGN[kind]
    before = contents(run.folder / "runs/foreign")
    done = run.lumbre("pretrain", "run.yaml", "name=foreign", override)
    assert done.returncode == 2, done.stderr
    assert "is a checkpoint of another run; set another name, or the keys back" in done.stderr
    assert re.search(expected, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert "loss" not in done.stderr
    assert run.exit("foreign")["status"] == 2
    assert contents(run.folder / "runs/foreign") == before


def test_two_ranks_tell_a_foreign_checkpoint_once(run: "Project") -> None:
    before = contents(run.folder / "runs/foreign")
    zero = ["engine.type=deepspeed", "engine.zero_stage=3"]
    done = run.lumbre(*RANKS, "pretrain", "run.yaml", "name=foreign", "model.num_heads=4", *zero)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    assert "model.num_heads: it has 2, this run 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert run.exit("foreign")["status"] == 2
    assert contents(run.folder / "runs/foreign") == before


def test_three_ranks_of_a_batch_of_eight_are_told_what_fits(run: "Project") -> None:
    """The launcher refuses before a process starts, and says which number to change to what."""
    done = run.lumbre("launch", "local", "processes=3", "--", "pretrain", "run.yaml", "name=three")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1, done.stderr
    assert "= 6 fits, such as 6 or 12; 8 fits with processes = 2 or 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run.folder / "runs/three").exists()


def test_a_foreign_fine_tuning_checkpoint_is_refused_and_left_as_it_is(run: "Project") -> None:
    """Another data set under the name of a run that is not complete."""
    folder = run.folder
    write_task(folder)
    keys = ("seeds=[1]", "compare_with_scratch=false", "train.steps=8", "checkpoint.every_steps=4")
    (folder / "foreign.yaml").write_text(f"name: foreign-tuned\n{TASK}")
    job = ("finetune", "foreign.yaml", *keys, "model.path=runs/unbroken/model")
    done = run.lumbre(*job)
    assert done.returncode == 0, done.stderr
    tuned = folder / "runs/foreign-tuned"
    shutil.rmtree(tuned / "checkpoints/step-00000008")
    (tuned / "results.json").unlink()
    before = contents(tuned)
    done = run.lumbre(*job, "task.max_length=24")
    assert done.returncode == 2, done.stderr
    assert "is a checkpoint of another run; set another name, or the keys back" in done.stderr
    assert "task.max_length: it has" in done.stderr
    assert json.loads((tuned / "exit.json").read_text())["status"] == 2
    assert contents(tuned) == before
