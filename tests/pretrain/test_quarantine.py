"""Documents in quarantine: no sample gives them, nothing else changes, and the list is not lost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumbre import stdlib
from lumbre.errors import DataError
from lumbre.models import NO_TARGET
from lumbre.tokenizer import BpeConfig, WordPieceConfig
from pretrain.data.config import DataConfig
from pretrain.data.mixture import prepare_sets
from pretrain.data.plan import Plan, Stage
from pretrain.objectives import (
    ClmConfig,
    MlmConfig,
    ReplacedTokenConfig,
    SentenceOrderConfig,
    SpanCorruptionConfig,
)
from pretrain.quarantine import Found, Quarantine, Suspect
from pretrain.samples import GlobalStream

SAMPLES = 24
OBJECTIVES = {
    "mlm": (MlmConfig(masking="whole_word"), WordPieceConfig(vocab_size=600), "best_fit"),
    "clm": (ClmConfig(), BpeConfig(vocab_size=600), "concatenate"),
    "rtd": (ReplacedTokenConfig(), WordPieceConfig(vocab_size=600), "concatenate"),
    "pairs": (SentenceOrderConfig(), WordPieceConfig(vocab_size=600), "pad"),
    "span_corruption": (SpanCorruptionConfig(), BpeConfig(vocab_size=600, sentinels=100), "best_fit"),
}


@pytest.fixture(scope="module", params=OBJECTIVES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what makes a stream with a quarantine, and its sets, for each kind of objective."""
    objective, tokenizer, packing = OBJECTIVES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    texts = stdlib.documents_of("argparse", stdlib.module_files()["argparse"], "definition")
    (folder / "text.txt").write_text("\n\n".join(" ".join(one.text.split()) for one in texts))
    source = {"type": "text", "paths": [str(folder / "text.txt")], "documents": "paragraph"}
    keys = {
        "sources": [source],
        "folder": str(folder / "data"),
        "seq_length": 48,
        "packing": {"type": packing},
    }
    data = DataConfig.model_validate(keys)
    sets = prepare_sets(data, tokenizer)
    plan = Plan.of(Stage(0, 0, 48, 8, 4, data.weights), [], list(sets))
    built = objective.build(sets[""].tokenizer(), 7)
    return lambda quarantine=None: GlobalStream(sets, data, plan, built, 7, quarantine), sets


def suspect(number: int) -> Suspect:
    return Suspect(0, number, Found(step=3, loss=9.0, usual=4.0))


def test_a_quarantined_document_is_padding_and_nothing_else_changes(made: Any, tmp_path: Path) -> None:
    """Every array of every sample is as it was outside the document's places, which have no target."""
    stream, sets = made
    plain, quarantine = stream(), Quarantine(tmp_path / "quarantine.json", sets)
    numbers = np.unique(np.concatenate([plain.documents(k) for k in range(8)]))[:3].tolist()
    quarantine.add([suspect(number) for number in numbers])
    touched = 0
    for k, with_list in ((k, stream(quarantine)(k)) for k in range(SAMPLES)):
        without_list = plain(k)
        gone = np.flatnonzero(np.isin(plain.documents(k), numbers)) + 1
        touched += len(gone) > 0
        assert with_list.keys() == without_list.keys()
        masks = {
            len(without_list[name]): np.isin(without_list[name], gone)
            for name in ("document_ids", "decoder_document_ids")
            if name in without_list
        }
        for name, array in without_list.items():
            assert with_list[name].dtype == array.dtype, name
            if array.ndim:
                kept = ~masks[len(array)]
                assert np.array_equal(with_list[name][kept], array[kept]), (k, name)
            elif name.endswith("labels"):
                assert with_list[name] == (NO_TARGET if len(gone) else array)
        for name in ("document_ids", "decoder_document_ids"):
            if name in with_list:
                assert not np.isin(with_list[name], gone).any()
        for name in ("labels", "original_labels"):
            if name in with_list:
                places = with_list.get("decoder_document_ids", with_list["document_ids"])
                assert (with_list[name][places == 0] == NO_TARGET).all()
    assert touched


def test_a_samples_documents_are_those_whose_tokens_it_has(made: Any) -> None:
    """Each document of a row begins, or goes on, with tokens of the split's document of that number."""
    stream, sets = made
    split = sets[""].split("train")
    plain = stream()
    for k in range(SAMPLES):
        _, rows, row = plain._located(k)
        held = rows.row(row)
        numbers = rows.documents(row)
        assert len(numbers) == held["document_ids"].max()
        for place, number in enumerate(numbers.tolist(), start=1):
            tokens = held["input_ids"][held["document_ids"] == place].tobytes()
            assert tokens in split.tokens(*split.document(number)).tobytes()


def test_the_list_comes_back_from_its_file_and_from_a_checkpoint(made: Any, tmp_path: Path) -> None:
    """Either alone is enough, and together they are one list."""
    _, sets = made
    quarantine = Quarantine(tmp_path / "quarantine.json", sets)
    quarantine.add([suspect(5), suspect(2)])
    state = json.loads(json.dumps(quarantine.state()))
    assert Quarantine(tmp_path / "quarantine.json", sets).numbers(0).tolist() == [2, 5]
    other = Quarantine(tmp_path / "other.json", sets)
    other.add([suspect(9)])
    other.restore(state)
    assert other.numbers(0).tolist() == [2, 5, 9]
    assert sorted(json.loads(json.dumps(other.state()))[""]["documents"]) == ["2", "5", "9"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"sets": {"": {"fingerprint": "other", "documents": {}}}}',
            "set '' is of other data; move it away",
        ),
        ('{"sets": {"web": {"fingerprint": "x", "documents": {}}}}', "set 'web' is not this run's"),
        ('{"sets": {"": {"fingerprint": "x", "documents": {"-4": {}}}}}', "sets..documents"),
        ("{", "mend it, or move it away"),
    ],
)
def test_a_list_that_cannot_be_meant_is_explained(made: Any, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "quarantine.json"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        Quarantine(file, made[1])
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert file.read_text() == text
