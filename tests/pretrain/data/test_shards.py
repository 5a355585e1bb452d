"""A prepared folder: what is damaged is found and named, what is whole is read exactly."""

import json
import os
import shutil

import numpy as np
import pytest

from lumbre.errors import DataError
from lumbre.tokenizer import BpeConfig
from pretrain.data.shards import PreparedData


@pytest.fixture
def copy(prepared, tmp_path):
    """Return a copy of the prepared folder without the mark that its hashes were seen to be right."""
    folder = tmp_path / "copy"
    shutil.copytree(prepared.folder, folder)
    (folder / ".verified").unlink()
    return folder


def test_documents_are_those_of_the_corpus(prepared, texts):
    tokenizer = prepared.tokenizer()
    found = []
    for name in prepared.manifest.shards:
        documents = prepared.split(name)
        assert documents.lengths.sum() == documents.num_tokens
        for index in range(documents.num_documents):
            start, stop = documents.document(index)
            ids = documents.tokens(start, stop)
            assert ids[-1] == tokenizer.eos_id
            found.append(tokenizer.decode(ids))
    assert sorted(found) == sorted(texts)


def test_tokens_and_starts_across_shards_are_those_of_the_files(prepared):
    documents = prepared.split("train")
    shards = prepared.manifest.shards["train"]
    assert len(shards) > 3
    stream = np.concatenate([np.fromfile(prepared.folder / f"{one.name}.tokens", "<u2") for one in shards])
    starts = np.cumsum([0, *documents.lengths[:-1]])
    assert documents.num_tokens == len(stream)
    rng = np.random.default_rng(0)
    for start, stop in np.sort(rng.integers(0, len(stream) + 1, (200, 2)), axis=1).tolist():
        assert np.array_equal(documents.tokens(start, stop), stream[start:stop])
        inside = starts[(starts >= start) & (starts < stop)]
        assert np.array_equal(documents.document_starts(start, stop), inside)


def test_a_whole_folder_is_verified_once(copy):
    data = PreparedData.open(copy)
    assert not data.is_verified
    data.verify()
    assert PreparedData.open(copy).is_verified
    os.utime(copy / "train-00001.tokens", ns=(0, 0))
    assert not PreparedData.open(copy).is_verified


@pytest.mark.parametrize("name", ["train-00001.tokens", "validation-00000.offsets"])
def test_a_truncated_shard_is_named(copy, name):
    size = (copy / name).stat().st_size
    os.truncate(copy / name, size - 2)
    with pytest.raises(DataError, match=rf"{name}: has [\d,]+ bytes, not {size:,}; delete .* prepare again"):
        PreparedData.open(copy)


def test_a_missing_shard_is_named(copy):
    (copy / "train-00000.tokens").unlink()
    with pytest.raises(DataError, match=r"train-00000\.tokens: is missing"):
        PreparedData.open(copy)


@pytest.mark.parametrize("name", ["train-00001.tokens", "train-00002.offsets"])
def test_a_shard_whose_hash_is_off_is_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[8] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: its content is not what the manifest states"):
        PreparedData.open(copy).verify()


def test_another_tokenizer_is_refused_with_both_fingerprints(copy):
    other = BpeConfig(vocab_size=512).build(["something else altogether"])
    data = PreparedData.open(copy)
    with pytest.raises(DataError) as caught:
        data.check_tokenizer(other)
    assert other.fingerprint in str(caught.value)
    assert data.manifest.tokenizer_fingerprint in str(caught.value)
    other.save(copy / "tokenizer")
    with pytest.raises(DataError, match=other.fingerprint):
        data.tokenizer()


def test_another_format_version_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(DataError, match="format version 99, and this Lumbre reads 1"):
        PreparedData.open(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}'])
def test_a_manifest_that_is_none_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: "):
        PreparedData.open(copy)


def test_a_folder_that_is_no_prepared_data_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json: No such file.*lumbre prepare"):
        PreparedData.open(tmp_path)
