"""Sources: every document once for any cut into ranges, and every fault found and named."""

import gzip
import io
import itertools
import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumbre import stdlib
from lumbre.errors import DataError
from pretrain.data.config import DataConfig
from pretrain.data.preparation.corpus import Corpus
from pretrain.data.skips import Skips
from pretrain.data.sources import JsonlConfig, SourceConfig, StdlibConfig, TextConfig
from pretrain.data.sources.lines import lines_from, paragraphs_from


def read(source, unit_bytes=1 << 20, on_bad_document="error"):
    """Return the texts of a source and the skips by reason."""
    corpus, skips = Corpus([source]), Skips(on_bad_document)
    texts = [document.text for unit in corpus.units(unit_bytes) for document in corpus.read(unit, skips)]
    return texts, {reason: skip.count for reason, skip in skips.by_reason.items()}


def test_every_kind_is_registered():
    assert sorted(SourceConfig.members) == [
        "arrow",
        "csv",
        "hub",
        "jsonl",
        "parquet",
        "stdlib",
        "text",
    ]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["", "", " ", "a", "b\r", "\r", "a b"]), max_size=12).map("\n".join),
    st.lists(st.integers(0, 30), max_size=5),
    st.sampled_from([lines_from, paragraphs_from]),
)
@example("\n\na", [1], paragraphs_from)
@example("a\na", [2], lines_from)
def test_any_cut_into_ranges_gives_each_record_once(text, cuts, cut):
    raw = text.encode()
    whole = list(cut(io.BytesIO(raw), 0, len(raw)))
    bounds = [0, *sorted(min(one, len(raw)) for one in cuts), len(raw)]
    parts = [cut(io.BytesIO(raw), a, b) for a, b in itertools.pairwise(bounds) if a < b]
    assert [record for part in parts for record in part] == whole
    assert all(raw[at:].startswith(record) for at, record in whole)
    if cut is lines_from:
        assert [record.decode() for _, record in whole] == [
            line.rstrip("\r") for line in text.removesuffix("\n").split("\n") if text
        ]


def test_paragraphs_stand_between_blank_lines(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\n\none\ntwo\r\n \t\r\nthree\n\n\n\nfour")
    assert read(TextConfig(paths=[str(file)], documents="paragraph"))[0] == ["one\ntwo", "three", "four"]


def test_files_folders_globs_and_gzip_are_read_in_a_fixed_order(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.txt").write_text("b")
    (tmp_path / "deep" / ".hidden").write_text("no")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"c\nd"))
    (tmp_path / "a.txt").write_text("\ufeffa")
    by_glob = TextConfig(paths=[f"{tmp_path}/*.txt*", f"{tmp_path}/**/b.txt", f"{tmp_path}/a.txt"])
    assert read(by_glob)[0] == ["a", "c\nd", "b"]
    assert read(TextConfig(paths=[str(tmp_path)], documents="line"))[0] == ["a", "c", "d", "b"]


def test_relative_paths_are_looked_for_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    assert read(TextConfig(paths=["*.txt"]))[0] == ["a"]


@pytest.mark.parametrize("unit_bytes", [1024, 5000, 1 << 20])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_gives_the_field_of_every_line(tmp_path, unit_bytes, name):
    texts = [f"text {index} " * (index % 7 + 1) for index in range(300)]
    raw = "\n".join(json.dumps({"id": 1, "body": text}) for text in texts).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert read(JsonlConfig(paths=[str(tmp_path)], text_field="body"), unit_bytes) == (texts, {})


def test_each_bad_line_is_counted_by_its_reason(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"",
        b'{"text": "\xff"}',
        b"{",
        b"[1]",
        b"{}",
        b'{"text": 3}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "\\ud800"}',
        b'{"text": " "}',
        b"[" * 100_000,
        b'{"text": "also good"}',
    ]
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b"\n".join(lines))
    texts, skipped = read(JsonlConfig(paths=[str(file)]), on_bad_document="skip")
    assert texts == ["good", "also good"]
    assert skipped == {
        "invalid UTF-8": 1,
        "not JSON": 2,
        "not a JSON object": 1,
        "no field 'text'": 1,
        "field 'text' is not a string": 1,
        "NUL byte": 1,
        "invalid Unicode": 1,
        "empty": 1,
    }
    with pytest.raises(DataError, match=r"bad\.jsonl: line 3: invalid UTF-8; .*data\.on_bad_document"):
        read(JsonlConfig(paths=[str(file)]))


@pytest.fixture
def bad_files(tmp_path):
    """Return a folder with a good file and one of each that cannot be read as text."""
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(4000))[:1000])
    (tmp_path / "not.txt.gz").write_text("plain")
    os.mkfifo(tmp_path / "pipe.txt")
    return tmp_path


def test_each_bad_file_is_counted_by_its_reason(bad_files):
    texts, skipped = read(TextConfig(paths=[str(bad_files)]), on_bad_document="skip")
    assert texts == ["good"]
    assert skipped == {"invalid UTF-8": 1, "NUL byte": 1, "unreadable file": 3, "not a regular file": 1}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("latin1.txt", "invalid UTF-8; byte 3 of the text is 0xe9: save it as UTF-8"),
        ("nul.txt", "NUL byte"),
        ("gone.txt", "unreadable file; No such file"),
        ("cut.txt.gz", "unreadable file; Compressed file ended"),
        ("not.txt.gz", "unreadable file; Not a gzipped file"),
    ],
)
def test_a_bad_file_is_an_error_that_names_it(bad_files, name, fault):
    for other in bad_files.iterdir():
        if other.name not in (name, "good.txt"):
            other.unlink()
    with pytest.raises(DataError, match=rf"/{name}: {fault}.*data\.on_bad_document"):
        read(TextConfig(paths=[str(bad_files)]))


def test_a_missing_path_is_a_problem_of_the_config_with_its_key(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    sources = [
        TextConfig(paths=[str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), f"{tmp_path}/*.md"]),
        JsonlConfig(paths=[str(tmp_path)]),
        TextConfig(paths=[]),
        StdlibConfig(),
    ]
    problems = list(DataConfig(sources=sources).all_problems("data."))
    assert [(problem.key, problem.fault.split("/")[-1]) for problem in problems] == [
        ("data.sources.0.paths.1", "b.txt does not exist"),
        ("data.sources.0.paths.2", "*.md matches no file"),
        ("data.sources.1.paths.0", problems[2].fault.split("/")[-1]),
        ("data.sources.2.paths", "no path is named"),
    ]
    assert "holds no file that ends in .jsonl" in problems[2].fault
    assert all(problem.remedy for problem in problems)


@pytest.mark.parametrize("documents", ["file", "line"])
@pytest.mark.parametrize("layout", ["many", "one"])
def test_a_sample_is_spread_over_the_corpus_and_has_the_size_asked_for(tmp_path, documents, layout):
    lines = [f"{index:06d} some words on a line" for index in range(60_000)]
    size = 100 if layout == "many" else len(lines)
    for start in range(0, len(lines), size):
        (tmp_path / f"{start:06d}.txt").write_text("\n".join(lines[start : start + size]))
    corpus = Corpus([TextConfig(paths=[str(tmp_path)], documents=documents)])
    wanted = corpus.total_bytes // 4
    texts = list(corpus.sample(wanted, Skips("error")))
    assert 0.7 * wanted <= sum(map(len, texts)) <= wanted
    if documents == "line" or layout == "many":
        tenths = {int(text[:6]) * 5 // len(lines) for text in texts if text[:6].isdigit()}
        assert tenths == set(range(5))
    everything = list(corpus.sample(1 << 30, Skips("error")))
    assert "\n".join(everything) == "\n".join(lines)


def test_the_held_out_modules_are_no_part_of_the_source():
    files = stdlib.module_files()
    held_out = {files[module] for module in stdlib.held_out_modules()}
    assert not held_out & set(StdlibConfig().files())
    assert held_out < set(StdlibConfig(hold_out=False).files())
