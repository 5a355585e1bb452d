"""Tokenizers: training is a function of the text, and plain transformers reads what is saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import stdlib
from lumbre.errors import TokenizerError
from lumbre.tokenizer import (
    BpeConfig,
    CharactersConfig,
    FileTokenizerConfig,
    Tokenizer,
    TokenizerConfig,
    UnigramConfig,
    WordPieceConfig,
    split_text,
)

TEXTS = [document.text for document in stdlib.documents("module")][:20]
TRAINED = [
    WordPieceConfig(vocab_size=1024),
    BpeConfig(vocab_size=1024),
    UnigramConfig(vocab_size=1024),
    CharactersConfig(vocab_size=1024),
]
NAMES = [config.type for config in TRAINED]
AWKWARD = ["", "naïve café 東京 🔥", "Talk about [MASK] and <|endoftext|>.", "tabs\tand\n\nlines  here "]


@pytest.fixture(scope="module", params=TRAINED, ids=NAMES)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def built():
    return {config.type: config.build(TEXTS) for config in TRAINED}


@pytest.fixture(scope="module")
def tokenizer(config, built):
    return built[config.type]


def test_every_kind_is_registered():
    assert sorted(TokenizerConfig.members) == ["bpe", "characters", "file", "unigram", "wordpiece"]


FINGERPRINTS = """
from lumbre import stdlib
from lumbre.tokenizer import BpeConfig, CharactersConfig, UnigramConfig, WordPieceConfig
texts = [document.text for document in stdlib.documents("module")][:20]
for kind in WordPieceConfig, BpeConfig, UnigramConfig, CharactersConfig:
    print(kind(vocab_size=1024).build(texts).fingerprint)
"""


@pytest.mark.parametrize("processes", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_training_is_the_same_in_every_process_for_any_number_of_threads(built, processes):
    """Hash maps are seeded anew in each process; the bytes must not show it."""
    for number in range(processes):
        threads = str(number % 3 + 1)
        result = subprocess.run(
            [sys.executable, "-c", FINGERPRINTS],
            env=os.environ
            | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.split() == [built[config.type].fingerprint for config in TRAINED]


def test_plain_transformers_reads_a_saved_tokenizer_alike(config, tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path, model_max_length=128)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (len(theirs), theirs.vocab_size) == (tokenizer.vocab_size, tokenizer.vocab_size)
    assert theirs.model_max_length == 128
    for role in ("pad", "unk", "bos", "eos", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(tokenizer, f"{role}_id"), role
    text = "def café(self): return naïve + 1\n\n    # two  spaces 東京\n"
    ours = tokenizer.encode_batch([text])[0].tolist()
    encoded = theirs(text)
    assert encoded["input_ids"] == (ours[:-1] if config.type in ("bpe", "characters") else ours)
    assert ("token_type_ids" in encoded) == (config.type == "wordpiece")
    assert theirs(text, truncation=True, max_length=8, padding="max_length")["input_ids"][:3] == ours[:3]
    if config.type == "wordpiece":
        a, b = (tokenizer.encode_batch([part])[0].tolist() for part in ("one", "two"))
        pair = theirs("one", "two")
        assert pair["input_ids"] == a + b[1:]
        assert pair["token_type_ids"] == [0] * len(a) + [1] * (len(b) - 1)
    if config.type == "unigram":
        a, b = (tokenizer.encode_batch([part])[0].tolist() for part in ("one", "two"))
        assert theirs("one", "two")["input_ids"] == a + b
    if config.type == "bpe":
        assert theirs.decode(encoded["input_ids"]) == text
    if config.type == "characters":
        known = text.encode("ascii", "ignore").decode()
        assert theirs.decode(theirs(known)["input_ids"]) == known


def test_save_and_load_keep_ids_and_fingerprint(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = Tokenizer.load(path)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.specials == tokenizer.specials
        for ours, its in zip(tokenizer.encode_batch(AWKWARD), again.encode_batch(AWKWARD), strict=True):
            assert ours.tolist() == its.tolist()


def test_documents_begin_and_end_as_the_family_needs(built):
    wordpiece, bpe, unigram, characters = built.values()
    ids = wordpiece.encode_batch(["some text"])[0].tolist()
    assert (ids[0], ids[-1]) == (wordpiece.cls_id, wordpiece.sep_id)
    assert (wordpiece.pad_id, wordpiece.unk_id, wordpiece.bos_id, wordpiece.eos_id) == (0, 1, None, None)
    ids = bpe.encode_batch(["some text"])[0].tolist()
    assert ids[-1] == bpe.eos_id == bpe.bos_id != bpe.pad_id
    assert bpe.decode(ids) == "some text"
    assert bpe.special_ids == {bpe.eos_id, bpe.pad_id}
    ids = unigram.encode_batch(["some text"])[0].tolist()
    assert (ids[-1], unigram.document_begin) == (unigram.eos_id, ())
    assert (unigram.pad_id, unigram.eos_id, unigram.unk_id, unigram.bos_id) == (0, 1, 2, None)
    assert unigram.decode(ids) == "some text"
    ids = characters.encode_batch(["some text"])[0].tolist()
    assert (ids[-1], len(ids), characters.document_begin) == (characters.eos_id, len("some text") + 1, ())
    assert characters.decode(ids) == "some text"


def test_a_document_that_names_a_special_token_is_text(tokenizer):
    for name in tokenizer.specials.values():
        ids = tokenizer.encode_batch([f"the token {name} is text"])[0].tolist()
        begin, end = len(tokenizer.document_begin), len(tokenizer.document_end)
        assert not tokenizer.special_ids.intersection(ids[begin : len(ids) - end])


def test_vocabulary_size_is_what_was_asked_for(config, tokenizer):
    letters = len(config.special_names) + len(set("".join(TEXTS)))
    assert tokenizer.vocab_size == (letters if config.type == "characters" else config.vocab_size)


def test_lowercase_drops_case_and_accents():
    tokenizer = WordPieceConfig(vocab_size=512, lowercase=True).build(TEXTS)
    upper, lower = tokenizer.encode_batch(["CAFÉ Self", "cafe self"])
    assert upper.tolist() == lower.tolist()


@settings(deadline=None, max_examples=30)
@given(st.text(alphabet="ab \n", max_size=400), st.integers(1, 50))
def test_pieces_of_a_text_make_the_text(text, limit):
    pieces = list(split_text(text, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 2 * limit for piece in pieces)


def test_a_long_document_has_the_ids_of_its_whole_text(tokenizer):
    text = "\n\n".join(TEXTS)[:300_000]
    whole = tokenizer.backend.encode(text, add_special_tokens=False).ids
    pieces = tokenizer.encode_batch([text])[0].tolist()
    assert list(split_text(text))[1:], "the text is too short to be cut"
    assert pieces == [*tokenizer.document_begin, *whole, *tokenizer.document_end]


def test_a_tokenizer_file_of_another_kind_brings_its_own_roles(built, tmp_path):
    bpe = built["bpe"]
    bpe.save(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    said = json.loads(settings_file.read_text())
    said["bos_token"] = {"content": "<|pad|>"}
    del said["pad_token"]
    settings_file.write_text(json.dumps(said))
    loaded = FileTokenizerConfig(path=str(tmp_path)).build([])
    assert loaded.bos_id == bpe.pad_id
    assert loaded.encode_batch(["x"])[0].tolist() == [bpe.pad_id, *bpe.encode_batch(["x"])[0]]


def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path):
    bad = tmp_path / "tokenizer.json"
    bad.write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="No such file"):
        Tokenizer.load(Path("nowhere") / "tokenizer.json")
    keys = [problem.key for problem in FileTokenizerConfig(path=str(tmp_path / "gone")).problems()]
    assert keys == ["path"]
