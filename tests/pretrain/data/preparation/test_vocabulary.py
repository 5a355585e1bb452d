"""One tokenizer for several corpora, and folders of prepared data that need no sources."""

import json

import pytest

from lumbre.errors import DataError
from lumbre.tokenizer import BpeConfig, FileTokenizerConfig, Tokenizer
from pretrain.data.preparation.prepare import prepare
from pretrain.data.preparation.raw import CorpusConfig
from pretrain.data.preparation.vocabulary import train_tokenizer
from pretrain.data.sources import JsonlConfig

TOKENIZER = BpeConfig(vocab_size=600, train_bytes=20_000)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Return two corpora that have no letter in common."""
    folder = tmp_path_factory.mktemp("corpora")
    for name, words in (("latin", "abc bca cab"), ("greek", "αβγ βγα γαβ")):
        lines = [json.dumps({"text": f"{words} {index} " * 20}) for index in range(200)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return [
        CorpusConfig(sources=[JsonlConfig(paths=[str(folder / f"{name}.jsonl")])])
        for name in ("latin", "greek")
    ]


def lengths(config):
    tokenizer = Tokenizer.load(config.path)
    return [len(ids) for ids in tokenizer.encode_batch(["abc bca cab", "αβγ βγα γαβ"])]


def test_each_corpus_gives_the_share_of_its_weight(corpora, tmp_path):
    both = lengths(train_tokenizer(corpora, [1, 1], TOKENIZER, tmp_path / "both"))
    latin, greek = (
        lengths(train_tokenizer(corpora, weights, TOKENIZER, tmp_path / str(weights)))
        for weights in ([1, 0], [0, 1])
    )
    assert both[0] == latin[0] < greek[0]
    assert both[1] == greek[1] < latin[1]


def test_what_is_trained_is_not_trained_again_and_another_is_refused(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train_tokenizer(corpora, [1, 2], TOKENIZER)
    before = (tmp_path / first.path / "tokenizer.json").stat().st_mtime_ns
    assert train_tokenizer(corpora, [1, 2], TOKENIZER) == first
    assert (tmp_path / first.path / "tokenizer.json").stat().st_mtime_ns == before
    assert train_tokenizer(corpora, [2, 1], TOKENIZER) != first
    assert train_tokenizer(corpora, [2, 1], FileTokenizerConfig(path=first.path)).path == first.path
    with pytest.raises(DataError, match="holds something else than the tokenizer of this config"):
        train_tokenizer(corpora, [2, 1], TOKENIZER, tmp_path / first.path)


def test_a_corpus_without_sources_cannot_be_learned_from(corpora, tmp_path):
    prepared = CorpusConfig(folder=str(tmp_path / "prepared"))
    with pytest.raises(DataError, match=r"prepared: no sources.*set tokenizer to type file"):
        train_tokenizer([*corpora, prepared], [1, 1, 1], TOKENIZER)


def test_a_prepared_folder_opens_without_sources_if_the_tokenizer_is_the_same(corpora, tmp_path):
    file = train_tokenizer(corpora, [1, 1], TOKENIZER, tmp_path / "tokenizer")
    config = corpora[0].model_copy(update={"folder": str(tmp_path / "data"), "validation_fraction": 0.2})
    made = prepare(config, file)
    alone = CorpusConfig(folder=config.folder)
    assert not list(alone.all_problems())
    assert prepare(alone, file).fingerprint == made.fingerprint
    assert (
        prepare(alone, FileTokenizerConfig(path=f"{config.folder}/tokenizer")).fingerprint == made.fingerprint
    )
    other = train_tokenizer(corpora, [1, 9], BpeConfig(vocab_size=700), tmp_path / "other")
    ours, theirs = (Tokenizer.load(one.path).fingerprint for one in (file, other))
    with pytest.raises(
        DataError, match=rf"data: prepared from.*{ours}.* and is .*{theirs}.*set data\.folder"
    ):
        prepare(alone, other)


def test_neither_sources_nor_prepared_data_is_a_problem(tmp_path):
    config = CorpusConfig(folder=str(tmp_path / "nothing"))
    assert [problem.key for problem in config.all_problems()] == ["sources"]
    with pytest.raises(DataError, match=r"manifest\.json: No such file"):
        prepare(config, TOKENIZER)
