"""Sequence classification: Hugging Face's own loss, padding without effect, and folders that do not fit."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import classification_report

from finetune.data import Example, Examples
from finetune.examples import Skips, encoded, usable
from finetune.tasks import Classification, ClassificationConfig, Row
from lumbre.errors import DataError, ModelError

CAUSAL_AND_NOT = ("bert", "gpt2")


def made(folders: dict[str, Path], examples: Examples, family: str) -> tuple[Classification, torch.nn.Module]:
    """Return the task and its model for a family, the model in evaluation mode."""
    task = built(folders[family], examples, max_length=32)
    torch.manual_seed(5)
    return task, task.build_model(str(folders[family]), from_scratch=False).model.eval()


def built(folder: Path, examples: Examples, **keys: Any) -> Classification:
    """Return the task of a folder for the examples."""
    config = ClassificationConfig(**keys)
    return config.build(str(folder), config.learn(examples))


def rows_of(task: Classification, examples: Sequence[Example]) -> list[Row]:
    """Return each example's row."""
    return [row for example in examples for row in task.encode(example)]


@pytest.mark.parametrize("family", CAUSAL_AND_NOT)
def test_the_loss_is_hugging_faces_own(folders: dict[str, Path], examples: Examples, family: str) -> None:
    """Sums over micro batches, divided by all examples, are the mean that their model returns for all."""
    task, model = made(folders, examples, family)
    rows = rows_of(task, examples["train"])
    with torch.no_grad():
        terms = [task.loss(model, task.collate(rows[at : at + 5])).terms["loss"] for at in range(0, 18, 5)]
        theirs = model(**task.collate(rows)).loss
    assert [term.count for term in terms] == [5, 5, 5, 3]
    ours = sum(float(term.sum) for term in terms) / sum(term.count for term in terms)
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_the_counts_are_those_of_the_loss(task: Classification, examples: Examples) -> None:
    """The trainer divides by what it counted before the forward pass."""
    rows = rows_of(task, examples["train"][:5])
    batch = task.collate(rows)
    assert task.counts(batch) == {"loss": 5.0}
    assert task.tokens(batch) == sum(len(row["input_ids"]) for row in rows)


@pytest.mark.parametrize("family", CAUSAL_AND_NOT)
def test_padding_changes_nothing(folders: dict[str, Path], examples: Examples, family: str) -> None:
    task, model = made(folders, examples, family)
    rows = rows_of(task, examples["train"][:6])
    assert len({len(row["input_ids"]) for row in rows}) > 3
    with torch.no_grad():
        padded = task.predict(model, task.collate(rows))
        alone = [task.predict(model, task.collate([row])) for row in rows]
    ours, theirs = np.stack(padded.outputs), np.stack([one.outputs[0] for one in alone])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert padded.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-5)


def test_encode_cuts_a_text_to_max_length(task: Classification) -> None:
    """The tokens that close a sequence stay."""
    (row,) = task.encode({"text": "def build(self):\n" * 50, "label": "b"})
    ids = row["input_ids"]
    assert len(ids) == 32
    assert (ids[0], ids[-1]) == (task.tokenizer.cls_token_id, task.tokenizer.sep_token_id)
    assert row["labels"].tolist() == [1]
    assert len(task.encode({"text": "def", "label": "b"})[0]["input_ids"]) < 32


def test_scores_are_scikit_learns(task: Classification) -> None:
    """Held against the table that people read, on predictions that never hit one of the labels."""
    chance = np.random.default_rng(3)
    targets, predictions = chance.choice(list("abc"), 200), chance.choice(list("ab"), 200)
    table = classification_report(targets, predictions, output_dict=True, zero_division=0)
    score = task.score([{"label": one} for one in targets], [{"prediction": one} for one in predictions])
    assert list(score) == list(task.metrics)
    assert score["accuracy"] == pytest.approx((targets == predictions).mean())
    assert score["accuracy"] == pytest.approx(table["accuracy"])
    assert score["f1"] == pytest.approx(table["macro avg"]["f1-score"])


def test_predictions_and_losses_are_of_each_example(task: Classification, examples: Examples) -> None:
    model = task.build_model(str(task.tokenizer.name_or_path), from_scratch=False).model.eval()
    batch = task.collate(rows_of(task, examples["test"]))
    with torch.no_grad():
        found = task.predict(model, batch)
        chances = model(**batch).logits.softmax(dim=1)
    predictions = task.decide(examples["test"], [[one] for one in found.outputs])
    assert [one["prediction"] for one in predictions] == ["abc"[at] for at in chances.argmax(dim=1)]
    for one, its in zip(predictions, chances.tolist(), strict=True):
        assert list(one["probabilities"].values()) == pytest.approx(its, abs=1e-5)
    chosen = chances[torch.arange(len(chances)), batch["labels"]]
    assert found.loss == pytest.approx(float(-chosen.log().sum()), rel=1e-5)
    assert found.count == len(chances)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_the_config_names_the_labels(
    task: Classification, folders: dict[str, Path], from_scratch: bool
) -> None:
    model: Any = task.build_model(str(folders["bert"]), from_scratch=from_scratch).model
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_model_comes_in_training_mode(
    task: Classification, folders: dict[str, Path], from_scratch: bool
) -> None:
    """transformers loads weights in evaluation mode: dropout would begin after the first evaluation."""
    model = task.build_model(str(folders["bert"]), from_scratch=from_scratch).model
    assert all(module.training for module in model.modules())


def test_pretrained_weights_are_the_folders_and_fresh_ones_the_seeds(
    task: Classification, folders: dict[str, Path]
) -> None:
    stored = load_file(folders["bert"] / "model.safetensors")

    def weights(seed: int, from_scratch: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return task.build_model(str(folders["bert"]), from_scratch=from_scratch).model.state_dict()

    name = "bert.encoder.layer.1.output.dense.weight"
    for seed in (1, 2):
        assert torch.equal(weights(seed, False)[name], stored[name])
    assert torch.equal(weights(1, True)[name], weights(1, True)[name])
    assert not torch.equal(weights(1, True)[name], weights(2, True)[name])
    assert not torch.equal(weights(1, True)[name], stored[name])
    head = "classifier.weight"
    assert torch.equal(weights(1, False)[head], weights(1, False)[head])
    assert not torch.equal(weights(1, False)[head], weights(2, False)[head])


def without(records: list[Example], at: int, **changes: str | None) -> list[Example]:
    """Return the records with one changed; None takes the field away."""
    changed = {key: value for key, value in {**records[at], **changes}.items() if value is not None}
    return [*records[:at], changed, *records[at + 1 :]]


@pytest.mark.parametrize(
    ("split", "change", "expected"),
    [
        ("train", {"text": None}, 'train record 3: has no field \'text\': {"label": "c"}'),
        ("validation", {"label": None}, "validation record 3: has no field 'label'"),
        ("train", {"text": " "}, "train record 3: the field 'text' is an empty text"),
        ("test", {"label": "d"}, "test record 3: the label 'd' is not among the labels of training"),
    ],
)
def test_a_record_that_cannot_be_learned_is_named_or_skipped(
    examples: Examples, folders: dict[str, Path], split: str, change: dict[str, str | None], expected: str
) -> None:
    faulty = {**examples, split: without(examples[split], 2, **change)}
    config = ClassificationConfig()

    def read(policy: Any, skips: Skips) -> dict[str, int]:
        records = usable(config, faulty, policy, skips)
        task = config.build(str(folders["bert"]), config.learn(examples))
        return {name: len(one.rows) for name, one in encoded(task, records, policy, skips).items()}

    with pytest.raises(DataError) as caught:
        read("error", Skips())
    assert expected in str(caught.value)
    assert "data.on_bad_example=skip" in str(caught.value)
    skips = Skips()
    sizes = {name: len(records) for name, records in examples.items()}
    assert read("skip", skips) == {**sizes, split: sizes[split] - 1}
    (line,) = skips.lines()
    assert line.startswith(f"{split}: 1 left out: ")
    assert line.endswith("(the first is record 3)")


def test_a_null_field_is_named(task: Classification) -> None:
    fault = task.config.fault({"text": None, "label": "a"})
    assert fault == 'the field \'text\' is null: {"text": null, "label": "a"}'


def test_one_label_is_nothing_to_learn() -> None:
    """transformers would make it a regression."""
    with pytest.raises(DataError, match="every record has the label 'a'"):
        ClassificationConfig().learn({"train": [{"text": "def", "label": "a"}]})


def test_pairs_are_told_apart_by_token_types(folders: dict[str, Path], examples: Examples) -> None:
    """As transformers' tokenizer and BERT have it."""
    pairs: Examples = {
        name: [{**one, "other": str(one["text"])[::-1]} for one in its] for name, its in examples.items()
    }
    task = built(folders["bert"], pairs, pair_field="other", max_length=24)
    rows = rows_of(task, pairs["train"])
    texts = [[one["text"], one["other"]] for one in pairs["train"]]
    theirs = task.tokenizer(texts, truncation=True, max_length=24, padding=True, return_tensors="pt")
    batch = task.collate(rows)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], theirs[name])
    assert batch["token_type_ids"].any()


CLASSES = {"a": 3.0, "c": 0.25}


@pytest.mark.parametrize(
    ("keys", "theirs"),
    [
        ({"class_weights": CLASSES}, torch.nn.CrossEntropyLoss(torch.tensor([3.0, 1.0, 0.25]))),
        ({"label_smoothing": 0.2}, torch.nn.CrossEntropyLoss(label_smoothing=0.2)),
        ({"class_weights": "balanced"}, torch.nn.CrossEntropyLoss(torch.tensor([18 / 3 / 6] * 3))),
    ],
)
def test_weighted_and_smoothed_losses_are_torchs_over_any_micro_batches(
    folders: dict[str, Path], examples: Examples, keys: dict[str, Any], theirs: torch.nn.CrossEntropyLoss
) -> None:
    """The weighted mean over the whole batch, however it was cut."""
    task = built(folders["bert"], examples, max_length=32, **keys)
    model = task.build_model(str(folders["bert"]), from_scratch=False).model.eval()
    rows = rows_of(task, examples["train"])
    with torch.no_grad():
        terms = [task.loss(model, task.collate(rows[at : at + 5])).terms["loss"] for at in range(0, 18, 5)]
        batch = task.collate(rows)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    ours = sum(float(term.sum) for term in terms) / sum(term.count for term in terms)
    assert ours == pytest.approx(float(theirs(logits, batch["labels"])), rel=1e-5)


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_several_labels_and_numbers_have_hugging_faces_loss(
    folders: dict[str, Path], examples: Examples, problem: str
) -> None:
    chance = np.random.default_rng(1)

    def label() -> Any:
        return (
            float(chance.normal()) if problem == "regression" else list(chance.permutation(list("abc"))[:2])
        )

    given = {name: [{"text": one["text"], "label": label()} for one in its] for name, its in examples.items()}
    given["train"][0]["label"] = 0.5 if problem == "regression" else []
    task = built(folders["bert"], given, problem=problem, max_length=32)
    model: Any = task.build_model(str(folders["bert"]), from_scratch=False).model.eval()
    rows = rows_of(task, given["train"])
    with torch.no_grad():
        terms = [task.loss(model, task.collate(rows[at : at + 5])).terms["loss"] for at in range(0, 18, 5)]
        theirs = model(**task.collate(rows)).loss
        found = task.predict(model, task.collate(rows_of(task, given["test"])))
    ours = sum(float(term.sum) for term in terms) / sum(term.count for term in terms)
    assert ours == pytest.approx(float(theirs), rel=1e-5)
    predictions = task.decide(given["test"], [[one] for one in found.outputs])
    assert set(task.score(given["test"], predictions)) == set(task.metrics)


def test_numbers_are_named_by_the_labels_of_the_config() -> None:
    config = ClassificationConfig(labels=["bad", "good"])
    assert config.learn({"train": [{"text": "x", "label": 1}]})["labels"] == ["bad", "good"]
    assert config.names({"label": 0}) == ["bad"]
    assert config.names({"label": "good"}) == ["good"]
    assert "kept back" in config.fault({"text": "x", "label": -1})


def lose_the_trunk(folder: Path) -> None:
    """Leave the head's weights alone in the folder."""
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("bert.encoder.layer.1")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def widen(folder: Path) -> None:
    """Let config.json ask for other shapes than the weights have."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def cut_weights(folder: Path) -> None:
    """Tear model.safetensors as a broken copy does."""
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "none"}'), "none"),
        (cut_weights, "cannot be fine-tuned"),
        (widen, "cannot be fine-tuned"),
        (lose_the_trunk, "the weights lack 16 tensors, such as bert.encoder.layer.1.attention"),
    ],
)
def test_a_folder_that_cannot_classify_is_explained(
    task: Classification,
    folders: dict[str, Path],
    tmp_path: Path,
    damage: Callable[[Path], object],
    expected: str,
) -> None:
    """No traceback, and above all no fresh weights where pretrained ones were asked for."""
    folder = tmp_path / "damaged"
    shutil.copytree(folders["bert"], folder)
    damage(folder)
    with pytest.raises(ModelError) as caught:
        task.build_model(str(folder), from_scratch=False)
    assert str(caught.value).startswith(f"{folder}: cannot be fine-tuned as a sequence classifier: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_no_hugging_face_family_learns_too(folders: dict[str, Path], examples: Examples) -> None:
    """Model type `lumbre`, whose classes are registered with transformers'."""
    task, model = made(folders, examples, "own")
    batch = task.collate(rows_of(task, examples["train"][:8]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(40):
        term = task.loss(model, batch).terms["loss"]
        (term.sum / term.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(term.sum.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_folder_without_a_tokenizer_is_explained(
    folders: dict[str, Path], examples: Examples, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders["bert"] / name, tmp_path / name)
    with pytest.raises(ModelError, match="it has no tokenizer"):
        built(tmp_path, examples)


def test_a_tokenizer_without_padding_pads_with_its_last_token(
    folders: dict[str, Path], examples: Examples, tmp_path: Path
) -> None:
    """As GPT-2's own; the model is told, or it refuses batches."""
    folder = tmp_path / "gpt2"
    shutil.copytree(folders["gpt2"], folder)
    for name, key in (("tokenizer_config.json", "pad_token"), ("config.json", "pad_token_id")):
        content = json.loads((folder / name).read_text())
        del content[key]
        (folder / name).write_text(json.dumps(content))
    task, model = made({"gpt2": folder}, examples, "gpt2")
    assert task.tokenizer.pad_token == task.tokenizer.eos_token
    rows = rows_of(task, examples["train"][:4])
    with torch.no_grad():
        together = task.predict(model, task.collate(rows)).loss
        alone = sum(task.predict(model, task.collate([row])).loss for row in rows)
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_tokenizer_larger_than_the_model_is_explained(
    task: Classification, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Its last tokens have no embedding."""
    folder = tmp_path / "small"
    shutil.copytree(folders["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    with pytest.raises(ModelError, match="tokens, and the model has 100"):
        task.build_model(str(folder), from_scratch=True)
