"""Every format gives the documents of the plain text, once each, for any cut into units."""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.config import dump
from lumbre.tokenizer import FileTokenizerConfig
from pretrain.data.config import DataConfig
from pretrain.data.preparation.corpus import Corpus
from pretrain.data.preparation.prepare import prepare
from pretrain.data.skips import Skips
from pretrain.data.sources import ArrowConfig, CsvConfig, JsonlConfig, ParquetConfig, TextConfig
from tests.pretrain.data.formats import NAMES, PLAIN, TABLES, read, write, write_table

ROOT = Path(__file__).parents[3]
TEXTS = [
    f'{index} words, “quoted” "twice" and ü\t{random.Random(index).randbytes(index).hex()}'
    for index in range(150)
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("unit_bytes", [1024, 1 << 20])
def test_every_format_gives_the_documents_of_the_plain_text(tmp_path, name, unit_bytes):
    assert read(write(tmp_path, name, TEXTS), unit_bytes) == (TEXTS, {})


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(PLAIN),
    st.lists(st.text("ab\"', é", min_size=1).filter(str.strip), max_size=40),
    st.integers(1, 700),
    st.integers(1, 9),
)
def test_no_cut_into_units_loses_or_doubles_a_document(name, texts, unit_bytes, rows):
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), name, texts, rows)
        corpus, skips = Corpus([source]), Skips("error")
        found = [one for unit in corpus.units(unit_bytes) for one in corpus.read(unit, skips)]
        whole = [one for unit in corpus.units(1 << 30) for one in corpus.read(unit, skips)]
    assert [one.text for one in found] == texts
    assert found == whole
    assert [one.record for one in found] == sorted({one.record for one in found})


@pytest.mark.parametrize("name", ["a.csv", *TABLES, "a.jsonl"])
def test_line_breaks_and_empty_texts_stay_within_their_records(tmp_path, name):
    texts = ["one\ntwo\r\nthree", "", ",", '"', "\n\n", "last"]
    assert read(write(tmp_path, name, texts), 1024) == (["one\ntwo\r\nthree", ",", '"', "last"], {"empty": 2})


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("name", TABLES)
def test_every_kind_of_string_column_is_read(tmp_path, name, kind):
    write_table(tmp_path / name, pa.table({"text": pa.array(["b", "a", "b"], pa.string()).cast(kind)}), 3)
    config = ParquetConfig if name == "a.parquet" else ArrowConfig
    assert read(config(paths=[str(tmp_path)] if name != "a.arrows" else [str(tmp_path / name)])) == (
        ["b", "a", "b"],
        {},
    )


@pytest.mark.parametrize("name", [*TABLES, "a.jsonl.zst", "flat.csv"])
def test_a_sample_of_any_format_has_the_size_asked_for_and_is_spread_where_it_can_be(tmp_path, name):
    texts = [f"{index:05d} {os.urandom(75).hex()}" for index in range(20_000)]
    corpus = Corpus([write(tmp_path, name, texts, rows=5_000)])
    wanted = min(corpus.total_bytes, 2_000_000) // 2
    found = list(corpus.sample(wanted, Skips("error")))
    assert 0.7 * wanted <= sum(map(len, found)) <= wanted
    if "." not in name.partition(".")[2]:
        assert {int(text[:5]) * 4 // len(texts) for text in found if len(text) > 5} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        (JsonlConfig, {"a.jsonl", "b.json.zst"}),
        (CsvConfig, {"a.csv", "b.tsv.gz"}),
        (ParquetConfig, {"a.parquet"}),
        (ArrowConfig, {"a.arrow"}),
        (TextConfig, {"a.jsonl", "b.json.zst", "a.csv", "b.tsv.gz", "a.parquet", "a.arrow"}),
    ],
)
def test_a_folder_gives_the_files_of_the_type_at_any_depth(tmp_path, config, taken):
    for name in ("a.jsonl", "b.json.zst", "a.csv", "b.tsv.gz", "a.parquet", "a.arrow"):
        (tmp_path / name[0] / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / name[0] / "deep" / name).write_text("")
        (tmp_path / f".{name}").write_text("hidden")
    files = config(paths=[str(tmp_path)]).files()
    assert {file.name for file in files} == taken
    assert files == sorted(files)
    assert config(paths=[f"{tmp_path}/[ab]/**/*.gz"]).files() == [tmp_path / "b" / "deep" / "b.tsv.gz"]


READ = """
import sys
from pathlib import Path
from pretrain.data.preparation.corpus import Corpus
from pretrain.data.skips import Skips
from tests.pretrain.data.formats import config_of

def resident():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

def peak(path):
    corpus = Corpus([config_of(path)])
    found = (one for unit in corpus.units(1 << 22) for one in corpus.read(unit, Skips("error")))
    return max(resident() for number, _ in enumerate(found) if number % 200 == 0)

for name in sys.argv[2:]:
    small, large = (peak(Path(sys.argv[1], size, name)) for size in ("small", "large"))
    print(name, large - small)
"""
PREPARE = """
import sys, yaml
from lumbre.tokenizer import BpeConfig
from pretrain.data.config import DataConfig
from pretrain.data.preparation.prepare import prepare
prepare(DataConfig(**yaml.safe_load(sys.stdin.read())), BpeConfig(vocab_size=512))
"""


def run(program, *arguments, stdin="", **environment):
    """Return what a Python program prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        input=stdin,
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    ).stdout


def test_memory_does_not_grow_with_the_file(tmp_path):
    """The Parquet file is one row group; what grows is kibibytes of the process's own memory."""
    names = ["a.txt", "a.jsonl.zst", "a.csv", *TABLES]
    for size, count in (("small", 6_000), ("large", 60_000)):
        (tmp_path / size).mkdir()
        texts = [os.urandom(250).hex() for _ in range(count)]
        for name in names:
            write(tmp_path / size, name, texts, rows=count if name == "a.parquet" else 1_000)
    said = dict(line.split() for line in run(READ, tmp_path, *names).splitlines())
    assert sorted(said) == sorted(names)
    assert {name: grown for name, grown in said.items() if int(grown) > 8_000} == {}


def test_preparation_of_every_format_is_the_same_for_any_number_of_threads(tmp_path):
    sources, texts = [], []
    for index, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        mine = [f"{index} {text}" for text in TEXTS[:20]]
        sources.append(write(tmp_path / name, name, mine))
        texts += mine
    prepared = []
    for threads in (1, 3):
        config = DataConfig(
            sources=sources, folder=str(tmp_path / f"data{threads}"), unit_bytes=1024, shard_tokens=5000
        )
        run(PREPARE, stdin=dump(config), RAYON_NUM_THREADS=str(threads))
        files = sorted(file for file in Path(config.folder).rglob("*") if file.is_file())
        prepared.append({file.name: file.read_bytes() for file in files if file.name != ".verified"})
    assert prepared[0] == prepared[1]
    plain = DataConfig(
        sources=[write(tmp_path, "plain.jsonl", texts)], folder=str(tmp_path / "plain"), shard_tokens=5000
    )
    data = prepare(plain, FileTokenizerConfig(path=str(tmp_path / "data1" / "tokenizer")))
    shards = {name: raw for name, raw in prepared[0].items() if name.endswith((".tokens", ".offsets"))}
    assert shards
    assert shards == {name: (data.folder / name).read_bytes() for name in shards}
