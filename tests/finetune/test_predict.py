"""Predictions for new records: those of the model, in order, and nothing lost to a bad line."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.data import Examples
from finetune.predict import model_folder, predict
from finetune.tasks import Classification, restored
from lumbre.errors import DataError


@pytest.fixture(scope="module")
def run(task: Classification, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder with a fine-tuned model."""
    folder = tmp_path_factory.mktemp("runs") / "fine"
    torch.manual_seed(3)
    model: Any = task.build_model(str(folders["bert"]), from_scratch=False).model
    model.save_pretrained(folder / "model")
    task.save(folder / "model")
    return folder


def written(file: Path, records: list[Any]) -> Path:
    """Write records, or bare lines, a line each."""
    file.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return file


def test_a_saved_task_is_the_same_task(run: Path, task: Classification) -> None:
    again = restored(run / "model")
    assert (again.config, again.state) == (task.config, task.state)


def test_predictions_are_the_models_in_the_records_order(
    run: Path, examples: Examples, tmp_path: Path
) -> None:
    """As transformers' own pipeline gives them, whatever lengths were put together."""
    from transformers import pipeline

    texts = [{"text": str(one["text"])} for one in examples["train"]]
    out = tmp_path / "new" / "out.jsonl"
    assert predict(run, written(tmp_path / "in.jsonl", texts), out, 2, skip=False) == len(texts)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["input"] for line in lines] == [one["text"] for one in texts]
    theirs = pipeline("text-classification", str(run / "model"), top_k=None, device="cpu")
    for line, one in zip(lines, texts, strict=True):
        (found,) = theirs([one["text"]], truncation=True, max_length=32)
        scores = {label["label"]: label["score"] for label in found}
        assert line["prediction"] == max(scores, key=lambda label: scores[label])
        assert line["probabilities"] == pytest.approx(scores, abs=1e-4)
        assert "score" not in line


def test_a_bad_line_is_named_and_the_output_stays_as_it_was(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before\n")
    source = written(tmp_path / "in.jsonl", [{"text": "def"}, {"txt": "def"}])
    with pytest.raises(DataError, match=r"in.jsonl:2: has no field 'text': "):
        predict(run, source, out, 4, skip=False)
    assert out.read_text() == "before\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_bad_lines_keep_their_place_where_they_are_skipped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From standard input to standard output."""
    lines = b'{"text": "def"}\n{torn\n\n[1]\n{"text": " "}\n{"text": "class"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert predict(run, Path("-"), None, 4, skip=True) == 5
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in one for one in found] == [False, True, True, True, False]
    assert found[1]["error"].startswith("is not JSON: ")
    assert found[2]["error"] == "a JSON object is expected, got a list"


def test_of_several_runs_the_best_on_validation_predicts(run: Path, tmp_path: Path) -> None:
    rows = [
        {"run": name, "validation": {"accuracy": value}}
        for name, value in (("seed-1", 0.5), ("seed-2", 0.75))
    ]
    (tmp_path / "results.json").write_text(json.dumps({"metrics": ["accuracy"], "rows": rows}))
    with pytest.raises(DataError, match=r"seed-2/model: has no lumbre_task.json"):
        model_folder(tmp_path)
    (tmp_path / "seed-2").mkdir()
    (tmp_path / "seed-2" / "model").symlink_to(run / "model")
    assert model_folder(tmp_path) == tmp_path / "seed-2" / "model"
    with pytest.raises(DataError, match="is neither a fine-tuned run nor its model folder"):
        model_folder(tmp_path / "nowhere")


def test_padding_in_a_chunk_changes_nothing(run: Path, tmp_path: Path) -> None:
    texts = [{"text": "x" * length} for length in np.random.default_rng(1).integers(1, 40, 9).tolist()]
    outs = []
    for size in (1, 4, 50):
        out = tmp_path / f"{size}.jsonl"
        predict(run, written(tmp_path / "in.jsonl", texts), out, size, skip=False)
        outs.append([json.loads(line)["probabilities"] for line in out.read_text().splitlines()])
    for one in outs[1:]:
        for found, alone in zip(one, outs[0], strict=True):
            assert found == pytest.approx(alone, abs=1e-5)
