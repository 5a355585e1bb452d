"""The hub as a source, by a stand-in for it: `load_dataset` is replaced, and no network is touched."""

import datasets
import pytest

from lumbre.errors import DataError
from lumbre.tokenizer import BpeConfig
from pretrain.data.config import DataConfig
from pretrain.data.preparation.corpus import Corpus
from pretrain.data.preparation.prepare import prepare
from pretrain.data.skips import Skips
from pretrain.data.sources import HubConfig, TextConfig
from tests.pretrain.data.formats import read

ROWS = [{"text": f"document {index} of the hub", "id": index} for index in range(60)]


@pytest.fixture
def stand_in(monkeypatch):
    """Stand in for the hub with ROWS; return the list of what was asked of it."""
    asked = []

    def load_dataset(*names, **keys):
        asked.append((names, keys))
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_stream_is_read_in_its_order_as_one_unit(stand_in):
    source = HubConfig(name="owner/name", subset="en", revision="abc", max_documents=50)
    assert read(source, 1024) == ([row["text"] for row in ROWS[:50]], {})
    assert len(Corpus([source]).units(1024)) == 1
    assert stand_in == [(("owner/name", "en"), {"split": "train", "revision": "abc", "streaming": True})]


def test_a_stream_is_sampled_beside_files_that_are_larger_than_the_sample(stand_in, tmp_path):
    (tmp_path / "a.txt").write_text("words of a file\n" * 10_000)
    corpus = Corpus([TextConfig(paths=[str(tmp_path)], documents="line"), HubConfig(name="owner/name")])
    texts = list(corpus.sample(140_000, Skips("error")))
    assert texts[-len(ROWS) :] == [row["text"] for row in ROWS]
    assert 50_000 < sum(map(len, texts[: -len(ROWS)])) <= 70_000


def test_what_was_prepared_from_the_hub_is_found_again_without_it(stand_in, tmp_path):
    config = DataConfig(sources=[HubConfig(name="owner/name")], folder=str(tmp_path / "data"))
    first = prepare(config, BpeConfig(vocab_size=512))
    times = len(stand_in)
    assert prepare(config, BpeConfig(vocab_size=512)).fingerprint == first.fingerprint
    assert len(stand_in) == times


def test_a_row_without_the_text_is_named(stand_in):
    source = HubConfig(name="owner/name", text_field="body")
    with pytest.raises(DataError, match=r"hub:owner/name: record 0: no field 'body'; .* 'text', 'id': set"):
        read(source)
    assert read(source, on_bad_document="skip") == ([], {"no field 'body'": len(ROWS)})


@pytest.mark.parametrize("on_bad_document", ["error", "skip"])
def test_a_hub_that_cannot_be_reached_or_breaks_off_ends_the_work(stand_in, monkeypatch, on_bad_document):
    def unreachable(*names, **keys):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

    def breaks_off(*names, **keys):
        yield ROWS[0]
        raise TimeoutError

    for fault, said in ((unreachable, "Couldn't reach 'owner/name'"), (breaks_off, "TimeoutError")):
        monkeypatch.setattr(datasets, "load_dataset", fault)
        with pytest.raises(DataError, match=rf"hub:owner/name: {said}.*; check data\.sources .* the network"):
            read(HubConfig(name="owner/name"), on_bad_document=on_bad_document)
