"""`lumbre finetune` and `lumbre predict` for models that mark what they read, as their users meet them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.finetune.tasks.readers import roberta

CONFIG = """\
name: run
model: {path: model}
task: TASK
data: DATA
optimizer: {type: adamw, learning_rate: 1.0e-2}
train: {steps: 150, global_batch_size: 16, micro_batch_size: 8, log_every: 50, eval_every: 150}
"""
COLOURS = ("red", "blue", "green", "grey")


def lumbre(where: Path, *arguments: str) -> str:
    """Run the command to its end; return what it says of the run."""
    command = [sys.executable, "-m", "lumbre.cli", *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def tuned(where: Path, task: str, data: str) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Fine-tune a tiny model; return what was said, the metrics and the predictions on validation."""
    roberta(where / "model")
    (where / "tune.yaml").write_text(CONFIG.replace("TASK", task).replace("DATA", data))
    said = lumbre(where, "finetune", "tune.yaml")
    (row,) = json.loads((where / "runs/run/results.json").read_text())["rows"]
    lines = (where / "runs/run/predictions-validation.jsonl").read_text().splitlines()
    return said, row, [json.loads(line) for line in lines]


def squad(number: int) -> dict[str, Any]:
    """Return a paragraph of SQuAD 2.0 that is longer than a row, with a question that it may not answer."""
    colour = COLOURS[number % 4]
    context = f"{'No colour is here. ' * (number % 3)}The fox is {colour}. {'Nothing else is told. ' * 3}"
    answer = {"text": colour, "answer_start": 3}
    asked = {
        "id": f"q{number}",
        "question": "Which colour is the fox?" if number % 5 else "Who owns a house?",
        "answers": [answer] if number % 5 else [],
        "is_impossible": not number % 5,
    }
    return {"context": context, "qas": [asked]}


@pytest.mark.slow
def test_questions_are_learned_answered_and_left_unanswered(tmp_path: Path) -> None:
    """With a record that is skipped, and a threshold that `lumbre predict` reads from the model's folder."""
    paragraphs = [squad(number) for number in range(24)]
    (tmp_path / "dev.json").write_text(json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}))
    wrong = squad(1)
    wrong["qas"][0]["answers"][0]["text"] = "violet"
    train = json.dumps({"data": [{"title": "", "paragraphs": [*paragraphs, wrong]}]})
    (tmp_path / "train.json").write_text(train)
    said, row, lines = tuned(
        tmp_path,
        "{type: question_answering, max_length: 56, stride: 16}",
        "{type: squad, train: train.json, validation: dev.json, on_bad_example: skip}",
    )
    assert "train: 1 left out: the answer is not in its context (the first is record 25)" in said
    assert row["f1"] > 0.7
    assert row["f1"] == pytest.approx(sum(line["score"] for line in lines) / 24)
    assert any(not line["prediction"] for line in lines)
    for line in lines:
        assert line["input"]["context"][line["start"] : line["end"]] == line["prediction"] or not line["end"]

    asked = [{"question": line["input"]["question"], "context": line["input"]["context"]} for line in lines]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    lumbre(tmp_path, "predict", "runs/run", "--input", "in.jsonl", "--output", "out.jsonl")
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["prediction"] for one in again] == [line["prediction"] for line in lines]


@pytest.mark.slow
def test_names_are_learned_and_told_by_plain_transformers(tmp_path: Path) -> None:
    """From CoNLL files, one sentence longer than a row."""
    from transformers import pipeline

    people, places = ("Ada Lee", "Bo", "Cy Young"), ("Rome", "Oslo")
    sentences = [
        f"{people[at % 3]} went to {places[at % 2]} {'and back to the sea ' * (1 + 3 * (at == 5))}".split()
        for at in range(12)
    ]
    tags = {"Ada": "B-PER", "Lee": "I-PER", "Bo": "B-PER", "Cy": "B-PER", "Young": "I-PER"}
    tags |= dict.fromkeys(places, "B-LOC")
    blocks = ["\n".join(f"{word} {tags.get(word, 'O')}" for word in one) for one in sentences]
    (tmp_path / "all.txt").write_text("\n\n".join(blocks) + "\n")
    _, row, lines = tuned(
        tmp_path,
        "{type: token_classification, max_length: 32, stride: 8}",
        "{type: conll, train: all.txt, validation: all.txt}",
    )
    assert row["f1"] > 0.9
    assert [line["input"] for line in lines] == sentences
    tag = pipeline("token-classification", str(tmp_path / "runs/run/model"))
    found = {one["start"]: one["entity"] for one in tag("Ada Lee went to Oslo")}
    assert [found.get(start, "O") for start in (0, 4, 8, 13, 16)] == ["B-PER", "I-PER", "O", "O", "B-LOC"]
