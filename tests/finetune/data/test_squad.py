"""SQuAD's JSON: a record a question; what is not as in SQuAD is named by its place."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from finetune.data import SquadConfig
from lumbre.errors import DataError

CONTEXT = "The fire was lit at dawn."


def whole() -> dict[str, Any]:
    """Return a file of two questions, the second without an answer."""
    answered = {
        "id": "q1",
        "question": "When?",
        "answers": [{"text": "dawn", "answer_start": 20}, {"text": "at dawn", "answer_start": 17}],
    }
    impossible = {
        "id": "q2",
        "question": "Who?",
        "answers": [],
        "is_impossible": True,
        "plausible_answers": [{"text": "fire", "answer_start": 4}],
    }
    return {
        "version": "v2.0",
        "data": [{"title": "Fire", "paragraphs": [{"context": CONTEXT, "qas": [answered, impossible]}]}],
    }


def squad(file: Path, value: object) -> SquadConfig:
    """Return the config that has the value for training and validation."""
    text = value if isinstance(value, str) else json.dumps(value)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return SquadConfig.model_validate({"train": str(file), "validation": str(file)})


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_record_is_a_question_with_its_context_and_answers(tmp_path: Path, name: str) -> None:
    shared = {"title": "Fire", "context": CONTEXT}
    assert squad(tmp_path / name, whole()).build()["train"] == [
        {
            **shared,
            "id": "q1",
            "question": "When?",
            "answers": {"text": ["dawn", "at dawn"], "answer_start": [20, 17]},
            "is_impossible": False,
        },
        {
            **shared,
            "id": "q2",
            "question": "Who?",
            "answers": {"text": [], "answer_start": []},
            "is_impossible": True,
        },
    ]


QUESTION = r"a\.json: data\[0\]\.paragraphs\[0\]\.qas\[0\]"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ((), {"rows": []}, r"a\.json: there is no 'data'; a list stands there in SQuAD's files"),
        ((), [], r"a\.json: there is no 'data'"),
        (
            ("data", 0, "paragraphs", 0, "context"),
            None,
            r"data\[0\]\.paragraphs\[0\]: there is no 'context'; a str",
        ),
        (("data", 0, "paragraphs", 0, "qas", 0, "id"), 7, QUESTION + ": 'id' is a int; a str"),
        (
            ("data", 0, "paragraphs", 0, "qas", 0, "answers"),
            "dawn",
            QUESTION + ": 'answers' is a str; a list",
        ),
        (
            ("data", 0, "paragraphs", 0, "qas", 0, "answers", 1, "answer_start"),
            "20",
            QUESTION + r"\.answers\[1\]: 'answer_start' is a str; a int",
        ),
        ((), '{"data": [', r"a\.json: is not JSON: "),
    ],
)
def test_what_is_not_as_in_squad_is_named(
    tmp_path: Path, path: tuple[str | int, ...], value: object, expected: str
) -> None:
    tree: Any = whole()
    if path:
        holder = tree
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value
    else:
        tree = value
    with pytest.raises(DataError, match=expected):
        squad(tmp_path / "a.json", tree).build()


@pytest.mark.real_data
def test_the_published_files_have_the_published_numbers_of_questions() -> None:
    """An answer of the development sets stands where it says."""
    if "LUMBRE_DATA" not in os.environ:
        pytest.skip("LUMBRE_DATA is not set")
    folder = Path(os.environ["LUMBRE_DATA"]) / "squad"
    config = SquadConfig.model_validate(
        {"train": str(folder / "dev-v1.1.json"), "validation": str(folder / "dev-v2.0.json")}
    )
    splits = config.build()
    assert len(splits["train"]) == 10_570
    assert len(splits["validation"]) == 11_873
    assert sum(record["is_impossible"] for record in splits["validation"]) == 5_945
    for records in splits.values():
        for record in records:
            assert record["is_impossible"] == (not record["answers"]["text"])
            for text, start in zip(*record["answers"].values(), strict=True):
                assert record["context"][start : start + len(text)] == text
