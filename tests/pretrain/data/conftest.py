"""A small corpus of real text, and its prepared data."""

from pathlib import Path

import pytest

from lumbre import stdlib
from lumbre.tokenizer import BpeConfig
from pretrain.data.config import DataConfig
from pretrain.data.preparation.prepare import prepare
from pretrain.data.sources import TextConfig

TOKENIZER = BpeConfig(vocab_size=512)


@pytest.fixture(scope="session")
def texts():
    """Return 240 functions and classes of the standard library."""
    found = (
        one.text for one in stdlib.documents_of("argparse", stdlib.module_files()["argparse"], "definition")
    )
    more = (one.text for one in stdlib.documents_of("ast", stdlib.module_files()["ast"], "definition"))
    return sorted({*found, *more})[:240]


@pytest.fixture(scope="session")
def corpus(texts, tmp_path_factory):
    """Return a folder with a file a document."""
    folder = tmp_path_factory.mktemp("corpus")
    for index, text in enumerate(texts):
        (folder / f"{index:04d}.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def data_config():
    """Return what makes a config for a folder of files: small units and shards."""
    return _data_config


def _data_config(corpus: Path, folder: Path, **keys) -> DataConfig:
    keys = {"validation_fraction": 0.1, "shard_tokens": 5000, "unit_bytes": 4096, "seq_length": 64} | keys
    return DataConfig(sources=[TextConfig(paths=[str(corpus)])], folder=str(folder), **keys)


@pytest.fixture(scope="session")
def config(corpus, tmp_path_factory):
    return _data_config(corpus, tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="session")
def prepared(config):
    return prepare(config, TOKENIZER)
