"""Preparation is deterministic: the same bytes for any number of workers and through a kill."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from lumbre.config import dump
from lumbre.errors import DataError
from lumbre.tokenizer import BpeConfig, CharactersConfig, FileTokenizerConfig, WordPieceConfig
from pretrain.data.config import DataConfig
from pretrain.data.preparation import journal
from pretrain.data.preparation.disk import sole_process
from pretrain.data.preparation.prepare import prepare
from pretrain.data.shards import PreparedData
from pretrain.data.sources import JsonlConfig, TextConfig

TOKENIZER = BpeConfig(vocab_size=512)
PROGRAM = """
import sys, yaml
from lumbre.tokenizer import BpeConfig
from pretrain.data.config import DataConfig
from pretrain.data.preparation.prepare import prepare
prepare(DataConfig(**yaml.safe_load(sys.stdin.read())), BpeConfig(vocab_size=512))
"""


def start(config, **environment):
    """Start a preparation in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])} | environment,
    )
    process.stdin.write(dump(config))
    process.stdin.close()
    process.stdin = None
    return process


def content(folder):
    """Return the bytes of every file but the mark of verification, which holds times."""
    files = (file for file in Path(folder).rglob("*") if file.is_file() and file.name != ".verified")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def wait_for(condition, *arguments, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition(*arguments):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


@pytest.mark.parametrize(("workers", "threads"), [(1, "1"), (1, "3"), (2, "1"), (3, "1")])
def test_preparation_is_the_same_for_any_number_of_workers(config, prepared, tmp_path, workers, threads):
    other = config.model_copy(update={"folder": str(tmp_path / "again"), "workers": workers})
    process = start(other, RAYON_NUM_THREADS=threads)
    process.communicate()
    assert process.returncode == 0
    assert content(other.folder) == content(prepared.folder)


@pytest.mark.parametrize("unit_bytes", [1024, 1 << 22])
def test_preparation_is_the_same_for_any_unit_of_work(config, prepared, tmp_path, unit_bytes):
    other = config.model_copy(update={"folder": str(tmp_path / "again"), "unit_bytes": unit_bytes})
    assert content(prepare(other, TOKENIZER).folder) == content(prepared.folder)


def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(config, prepared, tmp_path, monkeypatch):
    other = config.model_copy(update={"folder": str(tmp_path / "killed"), "unit_bytes": 1024, "workers": 2})
    units = tmp_path / "killed.partial" / "units"

    def done():
        return [int(file.stem) for file in units.glob("[0-9]*.json") if file.stem.isdecimal()]

    for wanted in (1, 20):
        process = start(other)
        wait_for(lambda *one: len(done()) >= one[0] or one[1].poll() is not None, wanted, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the preparation ended before it could be killed"
        assert not Path(other.folder).exists()
    before = set(done())
    written = []
    write = journal.Journal.write
    monkeypatch.setattr(journal.Journal, "write", lambda *args: (written.append(args[1]), write(*args)))
    other = other.model_copy(update={"workers": 1})
    assert content(prepare(other, TOKENIZER).folder) == content(prepared.folder)
    assert len(before) >= 20
    assert written
    assert not before & set(written)
    assert not units.parent.exists()


def test_a_unit_that_cannot_be_cut_goes_on_within(data_config, texts, tmp_path, monkeypatch):
    """A packed file is one unit of many pieces, of which those that are done are not read again."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "all.txt.gz").write_bytes(gzip.compress("\n\n".join(texts).encode()))
    source = TextConfig(paths=[str(tmp_path / "corpus")], documents="paragraph")
    config = data_config(tmp_path, tmp_path / "cut").model_copy(update={"sources": [source], "workers": 1})
    whole = prepare(config.model_copy(update={"folder": str(tmp_path / "whole")}), TOKENIZER)
    saved = []
    save = journal.UnitRecord.save

    def stop_after_three(record, file):
        save(record, file)
        saved.append(file.name)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal.UnitRecord, "save", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, TOKENIZER)
    again = prepare(config, TOKENIZER)
    assert saved[:4] == ["0-0.json", "0-1.json", "0-2.json", "0-3.json"]
    assert len(saved) == len(set(saved))
    assert content(again.folder) == content(whole.folder)


def test_what_is_prepared_is_not_prepared_again(config, prepared):
    before = {file: file.stat().st_mtime_ns for file in prepared.folder.rglob("*")}
    assert prepare(config, TOKENIZER).fingerprint == prepared.fingerprint
    assert before == {file: file.stat().st_mtime_ns for file in prepared.folder.rglob("*")}


def test_other_processes_wait_and_say_for_whom(config, prepared, tmp_path):
    other = config.model_copy(update={"folder": str(tmp_path / "shared")})
    with sole_process(tmp_path / "shared"):
        waiting = [start(other), start(other)]
        for process in waiting:
            assert f"waiting for process {os.getpid()} on " in process.stderr.readline()
            assert process.poll() is None
    for process in waiting:
        process.communicate()
        assert process.returncode == 0
    assert content(other.folder) == content(prepared.folder)


def test_duplicates_are_dropped_and_splits_share_nothing(data_config, corpus, texts, prepared, tmp_path):
    again = tmp_path / "again.jsonl"
    again.write_text("\n".join(json.dumps({"text": text}) for text in texts + texts[:50]))
    config = data_config(corpus, tmp_path / "prepared")
    config = config.model_copy(update={"sources": [*config.sources, JsonlConfig(paths=[str(again)])]})
    both = prepare(config, FileTokenizerConfig(path=str(prepared.folder / "tokenizer")))
    assert both.manifest.duplicates == len(texts) + 50
    assert both.manifest.shards == prepared.manifest.shards
    assert both.fingerprint == prepared.fingerprint


def test_a_document_keeps_its_split_when_the_corpus_grows(data_config, texts, tmp_path):
    held_out = []
    for size in (len(texts) // 2, len(texts)):
        folder = tmp_path / str(size)
        folder.mkdir()
        for index in range(size):
            (folder / f"{index}.txt").write_text(texts[index])
        config = data_config(folder, tmp_path / f"data{size}", test_fraction=0.2)
        data = prepare(config, TOKENIZER)
        counts = {name: data.split(name).num_documents for name in data.manifest.shards}
        assert sum(counts.values()) == size
        tokenizer = data.tokenizer()
        documents = data.split("validation")
        spans = [documents.document(index) for index in range(documents.num_documents)]
        held_out.append({tokenizer.decode(documents.tokens(a, b)) for a, b in spans})
        assert abs(counts["test"] - 0.2 * size) < 4 * (0.2 * 0.8 * size) ** 0.5
    assert held_out[0] == held_out[1] & set(texts[: len(texts) // 2])


def test_two_documents_are_enough_for_a_validation_split(tmp_path):
    (tmp_path / "a.txt").write_text("the first line is here\nthe second line is there\n")
    config = DataConfig(
        sources=[TextConfig(paths=[str(tmp_path / "a.txt")], documents="line")], folder=str(tmp_path / "data")
    )
    data = prepare(config, TOKENIZER)
    assert data.split("train").num_documents == data.split("validation").num_documents == 1


def texts_of(data, split):
    tokenizer, documents = data.tokenizer(), data.split(split)
    spans = [documents.document(index) for index in range(documents.num_documents)]
    return {tokenizer.decode(documents.tokens(start, stop)) for start, stop in spans}


@pytest.mark.parametrize(("count", "test_fraction"), [(40, 0.0), (2, 0.01), (40, 0.3)])
def test_a_given_validation_split_is_left_out_of_all_else(tmp_path, count, test_fraction):
    """Of a text that stands in both, validation's stays; it takes from no other, and none from it."""
    train = {f"a line {number}" for number in range(count)}
    held_out = {f"another line {number}" for number in range(40)}
    (tmp_path / "train.txt").write_text("\n".join([*train, "in both"]))
    (tmp_path / "valid.txt").write_text("\n".join([*held_out, "in both"]))
    data = prepare(
        DataConfig(
            sources=[TextConfig(paths=[str(tmp_path / "train.txt")], documents="line")],
            validation_sources=[TextConfig(paths=[str(tmp_path / "valid.txt")], documents="line")],
            test_fraction=test_fraction,
            folder=str(tmp_path / "data"),
        ),
        TOKENIZER,
    )
    assert texts_of(data, "validation") == {*held_out, "in both"}
    assert texts_of(data, "train") | texts_of(data, "test") == train
    assert data.split("test").num_documents + data.split("train").num_documents == len(train)
    assert bool(data.split("test").num_documents) == bool(test_fraction)


def test_a_tokenizer_does_not_learn_from_a_given_validation_split(tmp_path):
    (tmp_path / "train.txt").write_text("plain words\nand more of them")
    (tmp_path / "valid.txt").write_text("für 東京")
    data = prepare(
        DataConfig(
            sources=[TextConfig(paths=[str(tmp_path / "train.txt")])],
            validation_sources=[TextConfig(paths=[str(tmp_path / "valid.txt")])],
            folder=str(tmp_path / "data"),
        ),
        CharactersConfig(),
    )
    assert texts_of(data, "train") == {"plain words\nand more of them"}
    assert texts_of(data, "validation") == {"fr "}
    assert not {"ü", "東", "京"} & set(data.tokenizer().backend.get_vocab())


def test_a_given_validation_split_is_part_of_what_was_prepared(data_config, corpus, tmp_path):
    (tmp_path / "valid.txt").write_text("a text to be measured on")
    keys = {"validation_fraction": 0.0, "sources": [TextConfig(paths=[str(corpus)])]}
    given = [TextConfig(paths=[str(tmp_path / "valid.txt")])]
    config = DataConfig(**keys, validation_sources=given, folder=str(tmp_path / "data"))
    made = prepare(config, TOKENIZER)
    assert prepare(config, TOKENIZER).fingerprint == made.fingerprint
    (tmp_path / "valid.txt").write_text("another text to be measured on")
    with pytest.raises(DataError, match="the files of the corpus have changed"):
        prepare(config, TOKENIZER)
    (tmp_path / "valid.txt").unlink()
    assert prepare(config, TOKENIZER).fingerprint == made.fingerprint


def test_a_validation_split_is_given_or_a_share_and_has_text_to_train_on(tmp_path):
    (tmp_path / "there.txt").write_text("a text")
    there, absent = (TextConfig(paths=[str(tmp_path / name)]) for name in ("there.txt", "absent.txt"))

    def told(**keys):
        return [str(problem) for problem in DataConfig(**keys).all_problems("data.")]

    assert told(sources=[there], validation_sources=[there]) == []
    fault = "data.validation_fraction: validation_sources are all there is of the validation split"
    assert told(sources=[there], validation_sources=[there], validation_fraction=0.1) == [
        f"{fault}; leave one of the two out"
    ]
    (problem,) = told(sources=[there], validation_sources=[absent])
    assert problem.startswith("data.validation_sources.0.paths")
    assert "data.validation_sources: there is no text to train on" in told(validation_sources=[there])[1]


@pytest.mark.parametrize("text", [None, "", " \n\n "])
def test_an_empty_corpus_is_an_error_that_says_what_was_read(data_config, tmp_path, text):
    folder = tmp_path / "corpus"
    folder.mkdir()
    if text is not None:
        (folder / "a.txt").write_text(text)
    with pytest.raises(
        DataError, match=r"data\.sources: no document in [01] files.*name files that hold text"
    ):
        prepare(data_config(folder, tmp_path / "data"), TOKENIZER)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (WordPieceConfig(vocab_size=512), "a long line of words " * 480_000),
        (TOKENIZER, "abcdefghij" * 1_000_000),
    ],
    ids=["words", "one word"],
)
def test_a_document_that_is_one_line_of_10_mb_is_one_document(tmp_path, tokenizer, text):
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("a short line\n")
    config = DataConfig(
        sources=[TextConfig(paths=[f"{tmp_path}/*.txt"], documents="line")],
        folder=str(tmp_path / "data"),
        validation_fraction=0,
    )
    data = prepare(config, tokenizer.model_copy(update={"train_bytes": 100_000}))
    documents = data.split("train")
    assert documents.num_documents == 2
    start, stop = documents.document(int(np.argmax(documents.lengths)))
    assert data.tokenizer().decode(documents.tokens(start, stop)) == text.strip()


def test_bad_documents_end_the_work_or_are_counted_and_reported(data_config, corpus, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"text": "good"}\n\xff\n{"text": "a\\u0000b"}\n\xfe\n')
    config = data_config(corpus, tmp_path / "data")
    config = config.model_copy(update={"sources": [*config.sources, JsonlConfig(paths=[str(bad)])]})
    with pytest.raises(DataError, match=r"bad\.jsonl: line 2: invalid UTF-8"):
        prepare(config, TOKENIZER)
    capsys.readouterr()
    data = prepare(config.model_copy(update={"on_bad_document": "skip"}), TOKENIZER)
    skipped = {reason: (skip.count, skip.first) for reason, skip in data.manifest.skipped.items()}
    assert skipped == {"invalid UTF-8": (2, f"{bad}: line 2"), "NUL byte": (1, f"{bad}: line 3")}
    assert f"2 invalid UTF-8 (first: {bad}: line 2)" in capsys.readouterr().err


def test_a_full_disk_loses_nothing_and_says_what_to_do(config, prepared, tmp_path):
    """The limit on the size of files stands for the full disk: the write fails in the kernel."""
    other = config.model_copy(
        update={"folder": str(tmp_path / "full"), "unit_bytes": 1024, "shard_tokens": 1 << 26}
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"limit.*set data\.folder to another disk.*what is done is kept"):
            prepare(other, TOKENIZER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = tmp_path / "full.partial"
    assert list((left / "units").glob("*.json"))
    assert not list(left.rglob("*.tmp"))
    assert not Path(other.folder).exists()
    again = prepare(other, TOKENIZER)
    assert again.split("train").num_tokens == prepared.split("train").num_tokens


def test_a_damaged_folder_is_found_before_it_is_used(config, prepared, tmp_path):
    other = config.model_copy(update={"folder": str(tmp_path / "data")})
    file = prepare(other, TOKENIZER).folder / "train-00000.tokens"
    damaged = bytearray(file.read_bytes())
    damaged[0] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"train-00000\.tokens: its content is not what the manifest states"):
        prepare(other, TOKENIZER)
    assert (prepared.folder / "manifest.json").is_file()


def test_a_folder_prepared_from_something_else_is_refused_and_says_what_differs(config, prepared, corpus):
    with pytest.raises(DataError, match=r"tokenizer was .*512.* and is .*1024.*set data\.folder"):
        prepare(config, BpeConfig(vocab_size=1024))
    with pytest.raises(DataError, match=r"validation_fraction was 0\.1 and is 0\.2"):
        prepare(config.model_copy(update={"validation_fraction": 0.2}), TOKENIZER)
    extra = corpus / "extra.txt"
    extra.write_text("one more")
    try:
        with pytest.raises(DataError, match="the files of the corpus have changed"):
            prepare(config, TOKENIZER)
    finally:
        extra.unlink()


def test_prepared_data_does_without_its_raw_text(data_config, texts, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index, text in enumerate(texts[:20]):
        (folder / f"{index}.txt").write_text(text)
    config = data_config(folder, tmp_path / "data")
    prepared = prepare(config, TOKENIZER)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert not list(config.all_problems())
    assert prepare(config, TOKENIZER).fingerprint == prepared.fingerprint
    elsewhere = config.model_copy(update={"folder": str(tmp_path / "other")})
    assert [problem.key for problem in elsewhere.all_problems()] == ["sources.0.paths.0"]


def test_a_foreign_folder_and_fractions_that_leave_nothing_are_problems(data_config, corpus, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    config = data_config(corpus, tmp_path, validation_fraction=0.5, test_fraction=0.5)
    assert [problem.key for problem in config.all_problems("data.")] == [
        "data.validation_fraction",
        "data.folder",
    ]


def test_data_lies_under_data_by_fingerprint_unless_a_folder_is_named(
    data_config, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = data_config(corpus, tmp_path).model_copy(update={"folder": None})
    first = prepare(config, TOKENIZER)
    second = prepare(config.model_copy(update={"validation_fraction": 0.2, "seq_length": 8}), TOKENIZER)
    assert first.folder.parent == second.folder.parent == Path("data")
    assert first.folder != second.folder
    assert prepare(config.model_copy(update={"seq_length": 32}), TOKENIZER).folder == first.folder


def test_a_large_vocabulary_takes_four_bytes_a_token(data_config, corpus, prepared, tmp_path):
    tokenizer = prepared.tokenizer()
    tokenizer.backend.add_tokens([f"<extra-{number}>" for number in range(1 << 16)])
    tokenizer.save(tmp_path / "wide")
    wide = prepare(data_config(corpus, tmp_path / "data"), FileTokenizerConfig(path=str(tmp_path / "wide")))
    assert wide.manifest.dtype == "uint32"
    ours, its = prepared.split("train"), wide.split("train")
    assert np.array_equal(ours.tokens(0, ours.num_tokens), its.tokens(0, its.num_tokens))
    PreparedData.open(wide.folder).verify()


@pytest.mark.parametrize("file", sorted(Path("configs/data").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_data_config_is_valid(file):
    config = DataConfig(**yaml.safe_load(file.read_text()))
    assert config.sources or config.mixture
