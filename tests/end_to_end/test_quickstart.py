"""What `make quickstart` has left in runs/: run it first, then `pytest -m quickstart`."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.quickstart

RUNS = Path(__file__).parents[2] / "runs"
PRETRAINED = ("quickstart-bert", "quickstart-gpt")


def rows(run: str) -> list[dict[str, Any]]:
    """Return the rows of a run."""
    return [json.loads(line) for line in (RUNS / run / "metrics.jsonl").read_text().splitlines()]


def test_pretraining_pays() -> None:
    """The pretrained model beats the same model from scratch by more than two standard errors."""
    results = json.loads((RUNS / "quickstart-finetune/results.json").read_text())
    assert len(results["rows"]) == 6
    assert results["gain"]["mean"] > 2 * results["gain"]["standard_error"] > 0


@pytest.mark.parametrize("run", PRETRAINED)
def test_the_model_learns_more_than_how_frequent_tokens_are(run: str) -> None:
    """The validation loss ends well below the first, which is that of a uniform guess."""
    evaluations = [row["eval/loss"] for row in rows(run) if "eval/loss" in row]
    first = next(row["loss"] for row in rows(run) if "loss" in row)
    config = json.loads((RUNS / run / "model/config.json").read_text())
    assert first == pytest.approx(math.log(config["vocab_size"]), rel=0.1)
    assert evaluations == sorted(evaluations, reverse=True)
    assert evaluations[-1] < 0.6 * first


@pytest.mark.parametrize("run", PRETRAINED)
def test_plain_transformers_loads_the_models(run: str) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    kind = AutoModelForMaskedLM if run.endswith("bert") else AutoModelForCausalLM
    model = kind.from_pretrained(RUNS / run / "model")
    tokenizer = AutoTokenizer.from_pretrained(RUNS / run / "model")
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.parametrize("run", [*PRETRAINED, "quickstart-finetune/pretrained-seed-1"])
def test_an_offline_wandb_run_is_left(run: str) -> None:
    assert list((RUNS / run / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.parametrize("run", PRETRAINED)
def test_memory_stays_below_four_gibibytes(run: str) -> None:
    assert max(row["peak_memory_bytes"] for row in rows(run) if "loss" in row) < 4 * 2**30


def test_the_report_shows_every_run() -> None:
    html = (RUNS / "quickstart.html").read_text()
    for name in (*PRETRAINED, "quickstart-finetune"):
        assert name in html
    assert "Pretraining brings" in html
    # What a script says is no request; what it asks for is watched in tests/report/test_browser.py.
    tags = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", html, flags=re.DOTALL)
    assert len(tags) < len(html)
    assert not re.search(r'(src|href)="https?://', tags), "the page must stand by itself"
