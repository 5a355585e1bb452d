"""Summarization: ROUGE as rouge-score has it, over what the model writes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer

from finetune.tasks.summarization import Summarization

from .writers import EXAMPLES, batch_of, folder, made

WRITTEN = ["fox ran. The hill", "", "the tree by one sea", *(one["summary"] for one in EXAMPLES[3:])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a GPT-2's folder: the smallest that writes."""
    return folder("gpt2", tmp_path_factory.mktemp("writers"))


def predictions(task: Summarization) -> list[dict[str, Any]]:
    """Return texts as the task decides on them."""
    outputs = [task.tokenizer(text, add_special_tokens=False)["input_ids"] for text in WRITTEN]
    return task.decide(EXAMPLES, [[ids] for ids in outputs])


def test_the_metrics_are_those_of_rouge_score(place: Path) -> None:
    task, _ = made(place)
    found = task.score(EXAMPLES, predictions(task))
    assert list(found) == list(task.metrics)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for kind in ("rouge1", "rouge2", "rougeL"):
        scores = [
            scorer.score(one["summary"], text)[kind].fmeasure
            for one, text in zip(EXAMPLES, WRITTEN, strict=True)
        ]
        assert found[kind] == pytest.approx(sum(scores) / len(scores))
    assert 0 < found["rougeL"] < 1


def test_lengths_and_empty_summaries_are_told(place: Path) -> None:
    task, _ = made(place)
    given = predictions(task)
    found = task.score(EXAMPLES, given)
    assert found["empty_share"] == 1 / 8
    assert found["generated_tokens"] == sum(one["tokens"] for one in given) / 8
    assert [one["prediction"] for one in given] == WRITTEN


def test_runs_are_compared_by_the_metric_that_is_chosen(place: Path) -> None:
    assert made(place)[0].metrics[0] == "rougeL"
    metrics = made(place, metric="rouge2")[0].metrics
    assert metrics == ("rouge2", "rouge1", "rougeL", "rougeLsum", "generated_tokens", "empty_share")


def test_a_summary_is_judged_by_its_own_rouge(place: Path) -> None:
    task, _ = made(place)
    judged = [task.judge(one, given) for one, given in zip(EXAMPLES, predictions(task), strict=True)]
    assert judged[1] == 0
    assert judged[3:] == [1] * 5
    assert sum(one or 0 for one in judged) / 8 == pytest.approx(
        task.score(EXAMPLES, predictions(task))["rougeL"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "gpt2", "llama", "own decoder", "own both"])
def test_a_model_learns_eight_summaries_by_heart(name: str, tmp_path: Path) -> None:
    """And writes them with their ends, greedily and by beams."""
    place = folder(name, tmp_path)
    task, model = made(place)
    model.float().train()
    batch = batch_of(task, EXAMPLES, "train")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        term = task.loss(model, batch).terms["loss"]
        mean = term.sum / term.count
        mean.backward()
        optimizer.step()
        optimizer.zero_grad()
        if mean < 5e-3:
            break
    by_beams, other = made(place, generation={"beams": 3})
    other.float().load_state_dict(model.state_dict())
    for its, writer in ((task, model.eval()), (by_beams, other)):
        outputs = its.predict(writer, batch_of(its, EXAMPLES)).outputs
        written = its.decide(EXAMPLES, [[ids] for ids in outputs])
        assert [one["prediction"] for one in written] == [one["summary"] for one in EXAMPLES]
        assert its.score(EXAMPLES, written)["rougeL"] == 1
