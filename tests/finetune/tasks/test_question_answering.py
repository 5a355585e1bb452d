"""Extractive question answering: rows of a long context, exact characters, Hugging Face's own loss."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import Example
from finetune.metrics.squad import squad_v1, squad_v2
from finetune.tasks import ExampleError, QuestionAnswering, QuestionAnsweringConfig, restored
from finetune.tasks.question_rows import located
from finetune.tasks.spans import SpanLogits
from lumbre.errors import DataError, ModelError

from . import writers
from .readers import FAMILIES

SOURCE = Path(__file__).read_text()
SIZES = {"max_length": 40, "stride": 8}
TOKENIZERS = ("bert", "own", *FAMILIES)


def question(context: str, *answers: str, **keys: Any) -> Example:
    """Return a record."""
    starts = [context.find(answer) for answer in answers]
    return {
        "id": "q",
        "question": " What does def build return?",
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
        **keys,
    }


EXAMPLES = [
    question(SOURCE[at : at + 20 + 9 * at % 120], SOURCE[at + 6 : at + 17]) for at in range(0, 900, 90)
]
NONE = question(SOURCE[:90])


@pytest.fixture(scope="module")
def places(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model folder of each family."""
    top = tmp_path_factory.mktemp("readers")
    made = {name: make(top / name) for name, make in FAMILIES.items()}
    return {**folders, **made, "t5": writers.folder("t5", top)}


@pytest.fixture(scope="module")
def tasks(places: dict[str, Path]) -> dict[str, QuestionAnswering]:
    """Return the task for each family, with questions that have no answer."""
    return {name: built(places[name]) for name in (*TOKENIZERS, "t5")}


def built(folder: Path, **keys: Any) -> QuestionAnswering:
    """Return the task of a folder."""
    config = QuestionAnsweringConfig.model_validate({**SIZES, **keys})
    return config.build(str(folder), config.learn({"train": [*EXAMPLES, NONE]}))


def model_of(task: QuestionAnswering) -> Any:
    """Return the folder's model in evaluation mode and float64, so that sums are told exactly."""
    torch.manual_seed(5)
    return task.build_model(task.path, from_scratch=False).model.double().eval()


def rows_of(task: QuestionAnswering, examples: Sequence[Example], purpose: Any = "evaluate") -> list[Any]:
    """Return the rows of all examples."""
    return [row for one in examples for row in task.encode(one, purpose)]


def spikes(task: QuestionAnswering, example: Example) -> list[SpanLogits]:
    """Return the logits of a model that is sure of the targets of an example's rows."""
    out = []
    for row in task.encode(example, "evaluate"):
        start_T, end_T = np.zeros((2, len(row["input_ids"])), dtype=np.float32)
        start_T[row["start_positions"]] = end_T[row["end_positions"]] = 20
        out.append(SpanLogits(start_T, end_T, row["char_starts"], row["char_ends"]))
    return out


@pytest.mark.parametrize("family", TOKENIZERS)
def test_rows_are_those_of_the_tokenizers_own_truncation(
    tasks: dict[str, QuestionAnswering], family: str
) -> None:
    task = tasks[family]
    for example in [*EXAMPLES, question("ñandú 🙂🙂 naïve  \t x\u200b " * 9, "ñ")]:
        theirs = task.tokenizer(
            example["question"].lstrip(),
            example["context"],
            truncation="only_second",
            max_length=task.config.max_length,
            stride=task.config.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        ours = task.encode(example, "predict")
        assert [row["input_ids"].tolist() for row in ours] == theirs["input_ids"]
        if "token_type_ids" in theirs:
            assert [row["token_type_ids"].tolist() for row in ours] == theirs["token_type_ids"]
        for at, row in enumerate(ours):
            pairs = zip(theirs.sequence_ids(at), theirs["offset_mapping"][at], strict=True)
            wanted = [chars if part == 1 else (-1, -1) for part, chars in pairs]
            assert list(zip(row["char_starts"], row["char_ends"], strict=True)) == wanted


texts = st.text(st.sampled_from("ab dE.é🙂\n中"), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TOKENIZERS), texts, st.data())
def test_an_answer_is_found_to_the_character(
    tasks: dict[str, QuestionAnswering], family: str, context: str, data: st.DataObject
) -> None:
    """Whole tokens come back as they are, and parts of them within the tokens that hold them."""
    start = data.draw(st.integers(0, len(context) - 1))
    text = context[start : data.draw(st.integers(start + 1, len(context)))].strip()
    example = {**question(context), "answers": {"text": [text], "answer_start": [start]}}
    task = tasks[family]
    try:
        task.encode(example)
    except ExampleError:
        return
    (prediction,) = task.decide([example], [spikes(task, example)])
    found, begin, end = (prediction[name] for name in ("prediction", "start", "end"))
    assert found == context[begin:end]
    assert text in found
    again = {**example, "answers": {"text": [found], "answer_start": [begin]}}
    (repeated,) = task.decide([again], [spikes(task, again)])
    # A blank at the edge is no part of an answer.
    assert repeated["prediction"].strip() == found.strip()


@pytest.mark.parametrize("family", ["bert", "own", "deberta", "t5"])
def test_the_loss_is_hugging_faces_own(tasks: dict[str, QuestionAnswering], family: str) -> None:
    """Sums over micro batches, divided by all rows, are the mean of what their model returns for each."""
    task = tasks[family]
    model, rows = model_of(task), rows_of(task, [*EXAMPLES, NONE], "train")
    assert len(rows) > len(EXAMPLES) + 4
    assert len({len(row["input_ids"]) for row in rows}) > 3
    batches = [task.collate(rows[at : at + 4]) for at in range(0, len(rows), 4)]
    with torch.no_grad():
        terms = [task.loss(model, batch).terms["loss"] for batch in batches]
        theirs = [float(model(**task.collate([row])).loss) for row in rows]
    assert [term.count for term in terms] == [task.counts(batch)["loss"] for batch in batches]
    assert sum(term.count for term in terms) == len(rows)
    assert sum(float(term.sum) for term in terms) == pytest.approx(sum(theirs), rel=1e-9)


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_padding_changes_nothing(tasks: dict[str, QuestionAnswering], family: str) -> None:
    """transformers' own loss lets padding have a share of the probability."""
    task = tasks[family]
    model, rows = model_of(task), rows_of(task, EXAMPLES[:4])
    with torch.no_grad():
        together = task.predict(model, task.collate(rows))
        alone = [task.predict(model, task.collate([row])) for row in rows]
    for ours, its in zip(together.outputs, alone, strict=True):
        for one, two in zip(vars(ours).values(), vars(its.outputs[0]).values(), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)
    assert together.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-9)
    assert together.count == len(rows)


def test_a_row_without_the_answer_points_at_its_first_token(tasks: dict[str, QuestionAnswering]) -> None:
    """As one with a part of it does; an answer ends wherever a row may."""
    task = tasks["bert"]
    for start in range(40, 300, 2):
        text = SOURCE[start : start + 30].rstrip()
        wanted = {start + at for at, letter in enumerate(text) if letter.strip()}
        rows, whole = task.encode(question(SOURCE[:400], text), "evaluate"), 0
        for row in rows:
            spans = zip(row["char_starts"], row["char_ends"], strict=True)
            is_whole = wanted <= {char for begin, end in spans for char in range(begin, end)}
            assert (row["end_positions"][0] > 0) == (row["start_positions"][0] > 0) == is_whole
            whole += is_whole
        assert whole < len(rows) - 4
    for row in task.encode(NONE):
        assert (row["start_positions"], row["end_positions"]) == (0, 0)


@given(st.text("ab", max_size=4), st.text("ab", max_size=20), st.integers(-3, 30))
def test_an_answer_that_stands_elsewhere_is_the_nearest(text: str, context: str, start: int) -> None:
    places = [at for at in range(len(context)) if text and context.startswith(text, at)]
    found = located(text, context, start)
    if not places:
        assert found is None
    else:
        assert found in places
        assert abs(found - start) == min(abs(at - start) for at in places)


def test_a_wrong_start_is_mended(tasks: dict[str, QuestionAnswering]) -> None:
    context = "dawn was at dawn and not at dawn"
    example = {**question(context), "answers": {"text": ["dawn"], "answer_start": [13]}}
    (found,) = tasks["bert"].decide([example], [spikes(tasks["bert"], example)])
    assert (found["start"], found["end"]) == (12, 16)


LONG = SOURCE[:700]


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (question("at dawn", "noon"), "the answer is not in its context: 'noon'"),
        (question("at dawn", " "), "the answer is not in its context: ''"),
        (question("\u200b at dawn", "\u200b"), "the answer has no token: '\\u200b'"),
        (question("\u200b\u200b", "dawn"), "the context has no token"),
        (question(LONG, LONG[200:330]), "the answer is whole in no row: it has "),
        (
            {**question(LONG, LONG[50:60]), "question": "def build return " * 12},
            "a row has too little room for a stride: max_length 40 - ",
        ),
    ],
)
def test_what_cannot_be_learned_is_told(
    tasks: dict[str, QuestionAnswering], example: Example, expected: str
) -> None:
    with pytest.raises(ExampleError) as caught:
        tasks["bert"].encode(example)
    assert str(caught.value).startswith(expected)


def test_an_answer_that_is_not_in_its_context_counts_in_no_loss(tasks: dict[str, QuestionAnswering]) -> None:
    """On validation it is one of the references all the same."""
    task = tasks["bert"]
    batch = task.collate(rows_of(task, [question("at dawn", "noon"), EXAMPLES[0]]))
    assert task.counts(batch)["loss"] == len(batch["input_ids"]) - 1
    with torch.no_grad():
        model = model_of(task)
        whole = task.predict(model, batch)
        rest = task.predict(model, task.collate(rows_of(task, [EXAMPLES[0]])))
    assert (whole.loss, whole.count) == (pytest.approx(rest.loss), rest.count)


def test_a_prediction_needs_no_answers(tasks: dict[str, QuestionAnswering]) -> None:
    task = tasks["bert"]
    asked = {"question": "def?", "context": SOURCE[:300]}
    assert task.config.fault(asked, "predict") == ""
    rows = task.encode(asked, "predict")
    with torch.no_grad():
        found = task.predict(model_of(task), task.collate(rows))
    assert (found.loss, found.count, len(found.outputs)) == (0, 0, len(rows))
    (prediction,) = task.decide([asked], [found.outputs])
    assert set(prediction) == {"prediction", "start", "end", "probability", "no_answer"}
    assert json.loads(json.dumps(prediction)) == prediction
    for answers in (None, ["what predictions do not look at"]):
        assert task.shown({**asked, "answers": answers}) == {"input": asked}
    assert task.shown({**asked, "is_impossible": True}) == {"input": asked, "target": []}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": " "}, "the field 'question' is an empty text"),
        ({"context": None}, "the field 'context' is null"),
        ({"answers": None}, "the field 'answers' is null"),
        ({"answers": ["dawn"]}, "the answers have no lists 'text' and 'answer_start': ['dawn']"),
        (
            {"answers": {"text": ["dawn"], "answer_start": []}},
            "the answers' lists 'text' and 'answer_start' differ in length: {'text'",
        ),
        (
            {"answers": {"text": ["dawn"], "answer_start": ["3"]}},
            "an answer is no text with a character that it begins at: {'text'",
        ),
        ({"answers": {"text": [], "answer_start": []}}, "has no answer, and task.no_answers is false"),
        ({"is_impossible": True}, "has no answer, and task.no_answers is false"),
        ({}, ""),
    ],
)
def test_a_record_that_is_none_is_told(change: dict[str, Any], expected: str) -> None:
    config = QuestionAnsweringConfig(no_answers=False)
    fault = config.fault({**question("at dawn", "dawn"), **change})
    assert fault.startswith(expected)
    assert bool(fault) == bool(expected)


def test_version_2_is_told_by_the_records() -> None:
    config, impossible = QuestionAnsweringConfig(), {**EXAMPLES[0], "is_impossible": True}
    assert config.fault(NONE) == config.fault(impossible) == ""
    assert not config.learn({"train": EXAMPLES, "validation": EXAMPLES})["no_answers"]
    assert config.learn({"train": EXAMPLES, "validation": [NONE]})["no_answers"]
    assert config.learn({"train": [*EXAMPLES, impossible]})["no_answers"]
    with pytest.raises(DataError, match="train: no question has an answer"):
        config.learn({"train": [NONE]})


def drawn(task: QuestionAnswering, examples: Sequence[Example]) -> list[list[SpanLogits]]:
    """Return random logits for every example."""
    chance, out = np.random.default_rng(4), []
    for one in examples:
        rows = task.encode(one, "predict")
        logits = [chance.normal(size=(2, len(row["input_ids"]))).astype(np.float32) * 2 for row in rows]
        out.append(
            [
                SpanLogits(*both, row["char_starts"], row["char_ends"])
                for row, both in zip(rows, logits, strict=True)
            ]
        )
    return out


MANY = [
    question(SOURCE[at : at + 60], *([SOURCE[at + 10 : at + 40]] if at % 3 else [])) for at in range(300, 360)
]


def test_the_threshold_is_the_best_on_development_data(places: dict[str, Path], tmp_path: Path) -> None:
    """No other gives a greater F1; a fine-tuned model's folder keeps it."""
    task = built(places["bert"])
    outputs = drawn(task, MANY)
    task.calibrate(MANY, outputs)
    chosen = task.state["threshold"]
    decided = task.decide(MANY, outputs)
    best = task.score(MANY, decided)["f1"]
    assert 0 < sum(not one["prediction"] for one in decided) < len(MANY)
    for threshold in [-1.0, *(one["no_answer"] for one in decided)]:
        task.state["threshold"] = threshold
        assert task.score(MANY, task.decide(MANY, outputs))["f1"] <= best + 1e-9
    task.state["threshold"] = chosen
    task.model_config.save_pretrained(tmp_path)
    task.save(tmp_path)
    assert restored(tmp_path).decide(MANY, outputs) == decided


def test_scores_are_squads_own(places: dict[str, Path]) -> None:
    answered = [one for one in MANY if one["answers"]["text"]]
    for task, examples, scorer in (
        (built(places["bert"], no_answers=False), answered, squad_v1),
        (built(places["bert"]), MANY, squad_v2),
    ):
        decided = task.decide(examples, drawn(task, examples))
        texts = {str(at): one["prediction"] for at, one in enumerate(decided)}
        assert ("no_answer" in decided[0]) == task.state["no_answers"]
        found = task.score(examples, decided)
        wanted = scorer(texts, {str(at): one["answers"]["text"] for at, one in enumerate(examples)})
        assert found == {name: wanted[name] for name in task.metrics}
        assert task.metrics[0] == "f1"
        judged = [task.judge(one, its) for one, its in zip(examples, decided, strict=True)]
        assert np.mean(judged) == pytest.approx(found["f1"])


@pytest.mark.parametrize("family", ["bert", "own"])
def test_the_usage_on_the_card_finds_the_models_span(
    tasks: dict[str, QuestionAnswering], family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers 5 has no pipeline for it."""
    task = tasks[family]
    asked = {"question": "def build?", "context": "import def torch"}
    model = task.build_model(task.path, from_scratch=False).model.eval()
    row, *others = task.encode(asked, "predict")
    with torch.no_grad():
        (found,) = task.predict(model, task.collate([row])).outputs
    assert not others
    assert task.usage_code().startswith("import lumbre") == (family == "own")
    model.save_pretrained(tmp_path)
    task.save(tmp_path)
    usage = (
        task.usage_code().replace("THE QUESTION", asked["question"]).replace("THE CONTEXT", asked["context"])
    )
    exec(usage.replace("THIS FOLDER", str(tmp_path)), {})
    span = row["input_ids"][found.start_T.argmax() : found.end_T.argmax() + 1]
    assert capsys.readouterr().out.splitlines()[-1] == task.tokenizer.decode(span)


def test_the_head_has_two_outputs_whatever_labels_the_folder_had(tasks: dict[str, QuestionAnswering]) -> None:
    config = tasks["bert"].configured(transformers.BertConfig(num_labels=5))
    assert config.num_labels == 2


def test_a_decoder_cannot(places: dict[str, Path]) -> None:
    with pytest.raises(ModelError) as caught:
        built(places["gpt2"])
    said = str(caught.value)
    assert "cannot be fine-tuned to answer questions by spans of a text; what can be is an encoder" in said
    assert "or an encoder-decoder" in said


def test_a_stride_of_a_whole_row_is_told() -> None:
    (problem,) = QuestionAnsweringConfig(max_length=64, stride=64).all_problems()
    assert (problem.key, problem.fault) == ("stride", "64 tokens, and a row has 64")
