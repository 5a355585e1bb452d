"""Translation: BLEU and chrF as sacreBLEU has them, quoted with their signatures."""

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from finetune.tasks import restored
from finetune.tasks.translation import Translation, TranslationConfig

from .writers import folder

EXAMPLES = [
    {"en": "the fox ran over the hill.", "de": "Der Fuchs rannte über den Hügel."},
    {"en": "two birds saw one tall tree", "de": "Zwei Vögel sahen einen hohen Baum"},
    {"en": "the sea", "de": "das Meer"},
]
WRITTEN = ["Der Fuchs rannte über einen Hügel.", "Zwei Vögel sahen den hohen Baum", ""]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a T5's folder."""
    return folder("t5", tmp_path_factory.mktemp("writers"))


def made(place: Path, **keys: Any) -> Translation:
    """Return the task."""
    config = TranslationConfig.model_validate({"prefix": "translate English to German: ", **keys})
    return config.build(str(place), {})


def predictions() -> list[dict[str, Any]]:
    """Return texts as the task decides on them."""
    return [{"prediction": text, "tokens": len(text.split())} for text in WRITTEN]


@pytest.mark.parametrize("words", ["13a", "char"])
def test_the_metrics_are_those_of_sacrebleu(place: Path, words: str) -> None:
    task = made(place, bleu_tokenizer=words)
    found = task.score(EXAMPLES, predictions())
    references = [[one["de"] for one in EXAMPLES]]
    assert found["bleu"] == sacrebleu.corpus_bleu(WRITTEN, references, tokenize=words).score
    assert found["chrf"] == sacrebleu.corpus_chrf(WRITTEN, references).score
    assert 20 < found["bleu"] < 100
    assert (list(found), found["generated_tokens"], found["empty_share"]) == (list(task.metrics), 4, 1 / 3)


def test_the_signatures_are_saved_with_the_model(place: Path, tmp_path: Path) -> None:
    """A BLEU that is quoted without one says nothing (Post, 2018)."""
    task = made(place)
    task.score(EXAMPLES, predictions())
    task.save(tmp_path)
    saved = json.loads((tmp_path / "lumbre_task.json").read_text())["state"]["signatures"]
    assert saved["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert saved["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")
    for name in ("config.json",):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    assert restored(tmp_path).state["signatures"] == saved


def test_a_translation_is_judged_by_its_own_chrf(place: Path) -> None:
    task = made(place)
    for example, given in zip(EXAMPLES, predictions(), strict=True):
        wanted = sacrebleu.corpus_chrf([given["prediction"]], [[example["de"]]]).score / 100
        assert task.judge(example, given) == wanted


def test_records_of_the_hub_hold_their_languages_within(place: Path) -> None:
    """WMT's are `{"translation": {"de": ..., "en": ...}}`."""
    task = made(place, source_field="translation.de", target_field="translation.en")
    example = {"translation": EXAMPLES[0]}
    assert task.config.fault(example) == ""
    assert task.shown(example) == {"input": EXAMPLES[0]["de"], "target": EXAMPLES[0]["en"]}
    (row,) = task.encode(example)
    prefix = task.tokenizer("translate English to German: ")["input_ids"]
    assert row["input_ids"][: len(prefix) - 1].tolist() == prefix[:-1]
