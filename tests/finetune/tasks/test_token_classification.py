"""Token classification: a tag for every word, whatever its pieces and however long the sentence."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import Example
from finetune.metrics.sequence_labels import entities
from finetune.tasks import ExampleError, TokenClassification, TokenClassificationConfig, restored
from lumbre.errors import DataError

from .readers import FAMILIES

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
WORDS = Path(__file__).read_text().split()
ENCODERS = ("bert", "own", *FAMILIES)


def sentence(start: int, length: int) -> Example:
    """Return a record of real words."""
    words = WORDS[start : start + length]
    return {"tokens": words, "tags": [TAGS[(start + len(word)) % 4] for word in words]}


EXAMPLES = [sentence(at, 2 + at % 13) for at in range(20, 56, 4)]
SIZES = {"max_length": 24, "stride": 6}


@pytest.fixture(scope="module")
def places(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model folder of each family."""
    top = tmp_path_factory.mktemp("readers")
    return {**folders, **{name: make(top / name) for name, make in FAMILIES.items()}}


@pytest.fixture(scope="module")
def tasks(places: dict[str, Path]) -> dict[str, TokenClassification]:
    """Return the task for each family."""
    return {name: built(place) for name, place in places.items()}


def built(folder: Path, **keys: Any) -> TokenClassification:
    """Return the task of a folder."""
    config = TokenClassificationConfig.model_validate({**SIZES, **keys})
    return config.build(str(folder), config.learn({"train": EXAMPLES}))


def model_of(task: TokenClassification) -> Any:
    """Return the folder's model in evaluation mode and float64, so that sums are told exactly."""
    torch.manual_seed(5)
    return task.build_model(task.path, from_scratch=False).model.double().eval()


def rows_of(task: TokenClassification, examples: Sequence[Example], purpose: Any = "evaluate") -> list[Any]:
    """Return the rows of all examples."""
    return [row for one in examples for row in task.encode(one, purpose)]


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2"])
def test_the_loss_is_hugging_faces_own(tasks: dict[str, TokenClassification], family: str) -> None:
    """Sums over micro batches, divided by all labels, are the mean that their model returns for all."""
    task = tasks[family]
    model, rows = model_of(task), rows_of(task, EXAMPLES, "train")
    batches = [task.collate(rows[at : at + 4]) for at in range(0, len(rows), 4)]
    whole = {name: tensor for name, tensor in task.collate(rows).items() if name != "words"}
    with torch.no_grad():
        terms = [task.loss(model, batch).terms["loss"] for batch in batches]
        theirs = float(model(**whole).loss)
    assert [term.count for term in terms] == [task.counts(batch)["loss"] for batch in batches]
    assert sum(term.count for term in terms) == sum(len(one["tokens"]) for one in EXAMPLES)
    ours = sum(float(term.sum) for term in terms) / sum(term.count for term in terms)
    # That of transformers is float32.
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_padding_changes_nothing(tasks: dict[str, TokenClassification], family: str) -> None:
    task = tasks[family]
    model, rows = model_of(task), rows_of(task, EXAMPLES[:5])
    assert len({len(row["input_ids"]) for row in rows}) > 2
    with torch.no_grad():
        together = task.predict(model, task.collate(rows))
        alone = [task.predict(model, task.collate([row])) for row in rows]
    for ours, its in zip(together.outputs, alone, strict=True):
        assert ours[0].tolist() == its.outputs[0][0].tolist()
        np.testing.assert_allclose(ours[1], its.outputs[0][1], rtol=1e-6, atol=1e-6)
    assert together.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-9)


words = st.lists(
    st.text(st.sampled_from("abE.é🙂中'\u200b"), min_size=1, max_size=6), min_size=1, max_size=30
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ENCODERS), words, st.data())
def test_a_word_is_decided_once_and_gets_its_own_tag(
    tasks: dict[str, TokenClassification], family: str, tokens: list[str], data: st.DataObject
) -> None:
    """The logits of a model that is sure of the labels give the tags back, O for words of no token."""
    task = tasks[family]
    tags = data.draw(st.lists(st.sampled_from(TAGS), min_size=len(tokens), max_size=len(tokens)))
    example = {"tokens": tokens, "tags": tags}
    try:
        rows = task.encode(example, "evaluate")
    except ExampleError:
        return
    assert all(len(row["input_ids"]) <= SIZES["max_length"] for row in rows)
    decided = [int(word) for row in rows for word in row["words"] if word >= 0]
    assert decided == sorted(set(decided))
    outputs = []
    for row in rows:
        assert ((row["words"] >= 0) == (row["labels"] >= 0)).all()
        chosen_K = row["labels"][row["words"] >= 0]
        outputs.append((row["words"][row["words"] >= 0], 9 * np.eye(4, dtype=np.float32)[chosen_K]))
    (prediction,) = task.decide([example], [outputs])
    pairs = zip(tags, prediction["probabilities"], strict=True)
    assert prediction["prediction"] == [tag if chance else "O" for tag, chance in pairs]
    # DeBERTa's vocabulary, as BERT's, leaves out what has no width.
    if family == "roberta":
        assert decided == list(range(len(tokens)))


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2"])
def test_a_words_pieces_are_those_it_has_in_the_sentence(places: dict[str, Path], family: str) -> None:
    """Which is what a pipeline reads; byte-level vocabularies have others for a word behind a blank."""
    task = built(places[family], max_length=1000)
    for example in EXAMPLES:
        (row,) = task.encode(example)
        assert row["input_ids"].tolist() == task.tokenizer(" ".join(example["tokens"]))["input_ids"]


def test_a_row_begins_and_ends_as_the_tokenizer_has_it(tasks: dict[str, TokenClassification]) -> None:
    task = tasks["bert"]
    rows = task.encode(sentence(0, 60))
    assert len(rows) > 3
    for row in rows:
        ids = row["input_ids"].tolist()
        assert (ids[0], ids[-1]) == (task.tokenizer.cls_token_id, task.tokenizer.sep_token_id)


def test_every_piece_is_trained_where_that_is_asked_for(places: dict[str, Path]) -> None:
    task = built(places["bert"], label_all_pieces=True, max_length=40)
    example = {"tokens": ["importlib", "settings"], "tags": ["B-PER", "B-LOC"]}
    (row,) = task.encode(example)
    word_ids = task.tokenizer(example["tokens"], is_split_into_words=True).word_ids()
    assert min(word_ids.count(word) for word in (0, 1)) > 2
    first, second = np.flatnonzero(row["words"] >= 0)
    # There is an I-PER to go on with, and no I-LOC.
    wanted = ["B-PER", *["I-PER"] * (second - first - 1), *["B-LOC"] * (len(word_ids) - 1 - second)]
    assert [task.labels[label] for label in row["labels"][1:-1]] == wanted
    assert (row["labels"][0], row["labels"][-1]) == (-100, -100)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokens": None}, "the field 'tokens' is null"),
        ({"tokens": "at dawn"}, "the field 'tokens' is no list: 'at dawn'"),
        ({"tokens": []}, "the sentence is empty"),
        ({"tokens": ["", " "]}, "the sentence is empty"),
        ({"tags": ["O"]}, "tokens and tags differ in number: 2 and 1"),
        ({"tags": [0, 1]}, "a tag is a number, and task.labels is left out"),
        ({}, ""),
    ],
)
def test_a_record_that_is_none_is_told(change: dict[str, Any], expected: str) -> None:
    fault = TokenClassificationConfig().fault({"tokens": ["at", "dawn"], "tags": ["O", "O"], **change})
    assert fault.startswith(expected)
    assert bool(fault) == bool(expected)


def test_what_cannot_be_used_is_told(tasks: dict[str, TokenClassification], places: dict[str, Path]) -> None:
    with pytest.raises(ExampleError, match="the tag is not among the tags of training: 'B-ORG'"):
        tasks["bert"].encode({"tokens": ["at", "dawn"], "tags": ["O", "B-ORG"]})
    with pytest.raises(ExampleError, match="the sentence has no token"):
        tasks["bert"].encode({"tokens": ["\u200b"], "tags": ["O"]})
    with pytest.raises(
        ExampleError, match="max_length 8 - 2 tokens beside the text = 6, and the stride is 6"
    ):
        built(places["bert"], max_length=8).encode(sentence(0, 30))


def test_numbers_are_the_labels_of_the_config(places: dict[str, Path]) -> None:
    """As a data set of the hub has them."""
    config = TokenClassificationConfig(labels=TAGS, tags_field="ner_tags")
    example = {"tokens": ["at", "dawn", "in"], "ner_tags": [0, 3, 1]}
    assert config.fault(example) == ""
    task = config.build(str(places["bert"]), config.learn({"train": [example]}))
    assert task.labels == tuple(TAGS)
    (row,) = task.encode(example)
    assert row["labels"][row["labels"] >= 0].tolist() == [0, 3, 1]
    assert task.shown(example) == {"input": ["at", "dawn", "in"], "target": ["O", "B-LOC", "B-PER"]}
    with pytest.raises(ExampleError, match="'4'"):
        task.encode({**example, "ner_tags": [0, 3, 4]})


def test_labels_are_learned_with_o_first() -> None:
    assert TokenClassificationConfig().learn({"train": EXAMPLES})["labels"] == [
        "O",
        "B-LOC",
        "B-PER",
        "I-PER",
    ]
    with pytest.raises(DataError, match="every word has the tag 'O'"):
        TokenClassificationConfig().learn({"train": [{"tokens": ["at"], "tags": ["O"]}]})


def test_scores_are_those_of_whole_entities(tasks: dict[str, TokenClassification]) -> None:
    task = tasks["bert"]
    found = [{"prediction": one["tags"]} for one in EXAMPLES]
    found[0] = {"prediction": ["O"] * len(EXAMPLES[0]["tags"])}
    metrics = task.score(EXAMPLES, found)
    assert list(metrics) == ["f1", "precision", "recall", "accuracy"]
    assert metrics == entities([one["prediction"] for one in found], [one["tags"] for one in EXAMPLES])
    assert metrics["recall"] < 1
    assert task.judge(EXAMPLES[1], found[1]) == 1
    assert task.judge(EXAMPLES[0], found[0]) == np.mean([tag == "O" for tag in EXAMPLES[0]["tags"]])


def test_plain_transformers_tags_with_the_saved_folder(places: dict[str, Path], tmp_path: Path) -> None:
    """A pipeline on the text gives the labels that the task predicts, by name; the task comes back too."""
    from transformers import pipeline

    task = built(places["roberta"], max_length=100)
    model = task.build_model(task.path, from_scratch=False).model.eval()
    model.save_pretrained(tmp_path)
    task.save(tmp_path)
    example = {"tokens": sentence(40, 12)["tokens"]}
    again = restored(tmp_path)
    assert again.config.fault(example, "predict") == ""
    rows = rows_of(again, [example], "predict")
    with torch.no_grad():
        found = again.predict(model, again.collate(rows))
    (prediction,) = again.decide([example], [found.outputs])
    assert json.loads(json.dumps(prediction)) == prediction
    text = " ".join(example["tokens"])
    tag = pipeline(task.pipeline, model=str(tmp_path), ignore_labels=[])
    by_start = {piece["start"]: piece for piece in reversed(tag(text))}
    starts = np.cumsum([0, *(len(word) + 1 for word in example["tokens"][:-1])])
    assert [by_start[at]["entity"] for at in starts] == prediction["prediction"]
    chances = [float(by_start[at]["score"]) for at in starts]
    assert chances == pytest.approx(prediction["probabilities"], abs=1e-4)
    assert len(set(prediction["prediction"])) > 1


def test_a_stride_of_a_whole_row_is_told() -> None:
    (problem,) = TokenClassificationConfig(max_length=32, stride=32).all_problems()
    assert (problem.key, problem.fault) == ("stride", "32 tokens, and a row has 32")
