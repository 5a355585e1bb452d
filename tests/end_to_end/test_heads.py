"""Objectives with heads of their own, from text to what is made of the exported folders."""

import json
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from .test_finetune import CONFIG, write_task

if TYPE_CHECKING:
    from .conftest import Project

SHORT = ("train.steps=6", "train.eval_every=3", "checkpoint.every_steps=3")
PADDED = "data.packing={type: pad}"


@pytest.mark.slow
def test_a_detector_is_trained_exported_and_tuned(project: "Project") -> None:
    folder = project.folder
    done = project.lumbre("pretrain", "run.yaml", "name=electra", "objective={type: rtd}", *SHORT)
    assert done.returncode == 0, done.stderr
    rows = project.rows("electra")
    assert all(0 < row["loss/detection"] < 2 for row in rows if "loss" in row)
    assert [row["step"] for row in rows if "eval/loss/detection" in row] == [3, 6]
    model, generator = folder / "runs/electra/model", folder / "runs/electra/model-generator"
    for place, architecture in ((model, "ElectraForPreTraining"), (generator, "ElectraForMaskedLM")):
        assert json.loads((place / "config.json").read_text())["architectures"] == [architecture]
    done = project.lumbre("export", "runs/electra", "--to", "detector")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("exported: detector") == 2
    for place, again in ((model, "detector"), (generator, "detector-generator")):
        one, two = (load_file(one / "model.safetensors") for one in (place, folder / again))
        assert one.keys() == two.keys()
        assert all((one[name] == two[name]).all() for name in one)
    write_task(folder)
    (folder / "tune.yaml").write_text(CONFIG)
    keys = ("seeds=[1]", "compare_with_scratch=false", "train.steps=4", "train.eval_every=2")
    done = project.lumbre("finetune", "tune.yaml", "name=tuned-detector", "model.path=detector", *keys)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_pairs_are_trained_and_go_on_in_another_objective(project: "Project") -> None:
    keys = ("objective={type: next_sentence}", PADDED)
    done = project.lumbre("pretrain", "run.yaml", "name=pairs", *keys, *SHORT)
    assert done.returncode == 0, done.stderr
    rows = [row for row in project.rows("pairs") if "loss" in row]
    assert all(0 < row["loss/next_sentence"] < 2 for row in rows)
    config = json.loads((project.folder / "runs/pairs/model/config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]
    start = (
        "model={type: huggingface, path: runs/pairs/model}",
        "tokenizer={type: file, path: runs/pairs/model}",
    )
    keys = ("objective={type: sentence_order}", PADDED, *start)
    done = project.lumbre("pretrain", "run.yaml", "name=order", *keys, *SHORT)
    assert done.returncode == 0, done.stderr
