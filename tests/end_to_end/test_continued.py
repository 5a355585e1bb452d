"""The road beyond a plain run: starting from a folder, experts, `lumbre` folders and what reads them."""

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Project

SHORT = ("train.steps=6", "train.eval_every=null", "checkpoint.every_steps=3")
START = (
    "model={type: huggingface, path: runs/unbroken/model}",
    "tokenizer={type: file, path: runs/unbroken/model}",
)


@pytest.mark.slow
def test_pretraining_goes_on_from_a_model_folder_with_its_loss(project: "Project") -> None:
    done = project.lumbre("pretrain", "run.yaml", "name=continued", *START, *SHORT)
    assert done.returncode == 0, done.stderr
    fresh, trained = project.losses("unbroken"), project.losses("continued")
    # The first loss is that of the trained weights, another part of the data's noise aside.
    assert trained[1] < fresh[1] - 0.3
    assert trained[1] == pytest.approx(fresh[24], abs=0.3)
    config = json.loads((project.folder / "runs/continued/model/config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    again = project.lumbre("pretrain", "run.yaml", "name=continued", *START, *SHORT)
    assert again.returncode == 0
    assert "complete at step 6" in again.stderr


@pytest.mark.slow
def test_a_start_from_a_folder_is_the_same_where_no_process_has_the_model_whole(project: "Project") -> None:
    """ZeRO 3 reads the weights one by one (law 2)."""
    losses = {}
    for name, engine in (
        ("whole", "engine={type: accelerate}"),
        ("parts", "engine={base: zero3, precision: float32}"),
    ):
        done = project.lumbre("pretrain", "run.yaml", f"name=from-{name}", *START, *SHORT, engine)
        assert done.returncode == 0, done.stderr
        losses[name] = project.losses(f"from-{name}")
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-6)


def test_weights_of_another_vocabulary_are_refused_with_the_remedy(project: "Project") -> None:
    done = project.lumbre("pretrain", "run.yaml", "name=refused", START[0])
    assert done.returncode == 2
    assert (
        "tokenizer.type: is trained anew, and the weights of runs/unbroken/model know another" in done.stderr
    )
    assert "use tokenizer: {type: file, path: runs/unbroken/model}" in done.stderr
    assert not (project.folder / "runs/refused").exists()


def test_too_few_embeddings_are_told_before_data_is_read(project: "Project") -> None:
    done = project.lumbre("pretrain", "run.yaml", "name=few", START[1], "model.vocab_size=99", "--dry-run")
    assert done.returncode == 2
    assert "model.vocab_size: 99 embeddings are too few for the" in done.stderr
    assert "leave the key out" in done.stderr


@pytest.mark.slow
def test_a_decoder_with_experts_trains_exports_and_completes(project: "Project") -> None:
    model = "model={type: transformer, causal: true, hidden_size: 16, num_layers: 2, num_heads: 2, "
    model += "position: {type: alibi}, mlp: {type: mixture_of_experts, num_experts: 3}}"
    keys = ("tokenizer={type: bpe, vocab_size: 600}", "objective={type: clm}", model)
    done = project.lumbre("pretrain", "run.yaml", "name=experts", *keys, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "largest logit difference to transformers" in done.stderr
    rows = [row for row in project.rows("experts") if "loss" in row]
    assert all(1 <= row["loss/balance"] < 3 for row in rows)
    config = json.loads((project.folder / "runs/experts/model/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("lumbre", ["LumbreForCausalLM"])
    completed = project.lumbre("generate", "runs/experts", "--prompt", "import", "--max-new-tokens", "5")
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.startswith("import")
