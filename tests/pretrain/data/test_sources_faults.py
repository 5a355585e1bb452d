"""What is broken in a file of any format is named with place, fault and remedy, or is one counted skip."""

import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lumbre.config import load
from lumbre.errors import ConfigError, DataError
from pretrain.data.config import DataConfig
from pretrain.data.sources import CsvConfig, JsonlConfig, Part, TextConfig
from tests.pretrain.data.formats import NAMES, PACK, TABLES, read, table, write, write_table

TEXTS = [f"text {index} " * 9 for index in range(150)]


def test_a_folder_that_cannot_be_listed_is_a_fault_that_names_it(tmp_path, monkeypatch):
    """The patched scandir stands for permissions, which do not bind the superuser."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("a")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = TextConfig(paths=[str(tmp_path)])
    assert read(source, on_bad_document="skip") == (["a"], {"unreadable folder": 1})
    with pytest.raises(DataError, match=r"/closed: unreadable folder; permit reading it, or set"):
        read(source)


FIELDS = r"the fields are 'id', 'body': set text_field to that of the text, or set data\.on_bad_document"


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", *TABLES])
def test_a_missing_field_is_an_error_that_names_those_there_are(tmp_path, name):
    source = write(tmp_path, name, TEXTS)
    path = tmp_path / name
    if name in TABLES:
        write_table(path, table(TEXTS).rename_columns(["id", "body"]), 7)
    else:
        path.write_bytes(path.read_bytes().replace(b"text", b"body"))
    with pytest.raises(DataError, match=rf"{name}(: line 1)?: no field 'text'; {FIELDS}"):
        read(source)
    for unit_bytes in (1024, 1 << 20):
        count = len(TEXTS) if name == "a.jsonl" else 1
        assert read(source, unit_bytes, "skip") == ([], {"no field 'text'": count})


@pytest.mark.parametrize("name", TABLES)
def test_a_column_of_numbers_is_no_text(tmp_path, name):
    source = write(tmp_path, name, TEXTS).model_copy(update={"text_field": "id"})
    with pytest.raises(DataError, match=rf"{name}: field 'id' is not a string; it is int64: .* 'text': set"):
        read(source)


@pytest.mark.parametrize("name", TABLES)
def test_a_null_and_invalid_utf8_leave_the_other_rows_whole(tmp_path, name):
    raw = pa.array([b"good", b"caf\xe9", None, b"fine"] * 5)
    text = pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:], raw.buffers()[0], raw.null_count)
    write_table(tmp_path / name, pa.table({"text": text}), 10)
    source = write(tmp_path, f"other{name[1:]}", []).model_copy(update={"paths": [str(tmp_path / name)]})
    assert read(source, 1024, "skip") == (
        ["good", "fine"] * 5,
        {"invalid UTF-8": 5, "field 'text' is not a string": 5},
    )
    with pytest.raises(DataError, match=rf"{name}: r.* 0, row 1 \(from 0\): invalid UTF-8; byte 3 .*0xe9"):
        read(source)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not JSON; write one JSON object a line"),
        (b"[1]", "not a JSON object; write "),
        (b'{"text": 3, "body": ""}', "field 'text' is not a string; it is int: .*'text', 'body'"),
        (b'{"text": null}', "field 'text' is not a string; it is NoneType"),
        (b'{"text": "\xff"}', "invalid UTF-8; byte 27 of the text is 0xff"),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_bad_line_of_json_is_an_error_with_line_fault_and_remedy(tmp_path, line, fault, packed):
    raw = b'{"text": "good"}\n' + line + b"\n"
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed[1:]](raw) if packed else raw)
    with pytest.raises(
        DataError, match=rf"a\.jsonl{packed}: line 2: {fault}.*, or set data\.on_bad_document"
    ):
        read(JsonlConfig(paths=[str(path)]))


def by_json(line: bytes) -> str:
    """Return the text of a line, or its fault, as the standard library reads it."""
    try:
        record = json.loads(line.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError:
        return "invalid UTF-8"
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(record, dict):
        return "not a JSON object"
    if not isinstance(text := record.get("text"), str):
        return "field 'text' is not a string" if "text" in record else "no field 'text'"
    if "\0" in text:
        return "NUL byte"
    return "invalid Unicode" if any("\ud800" <= letter <= "\udfff" for letter in text) else text


VALUES = [
    *(
        b'"a"',
        b'"\\u00e9\\ud83d\\ude00"',
        b'"\\ud83d"',
        b'"\\u0000"',
        b'"a\tb"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"01", b"1.", b"18446744073709551616", b"9" * 400, b"9" * 5000),
    *(b"null", b"{}", b'["a"]', b"[" * 50_000, b"[" * 50_000 + b"]" * 50_000, b"'a'", b""),
]
PAIRS = st.tuples(st.sampled_from([b'"text"', b'"\\u0074ext"', b'"n"', b"text"]), st.sampled_from(VALUES))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(PAIRS.map(b":".join), max_size=3).map(b", ".join),
    st.sampled_from(
        [(b"{", b"}"), (b"\xef\xbb\xbf{", b"} "), (b"[", b"]"), (b"{", b",}"), (b" {", b"}\x0b"), (b"", b"")]
    ),
)
def test_a_line_of_json_is_what_the_standard_library_reads(tmp_path, inside, around):
    path = tmp_path / "a.jsonl"
    path.write_bytes(inside.join(around))
    found = [
        getattr(one, "text", None) or one.reason
        for one in JsonlConfig(paths=[str(path)]).documents_in(path, Part(0, 0, 1 << 30))
    ]
    assert found == [by_json(inside.join(around))] * bool(inside.join(around).strip())


@pytest.mark.parametrize("multiline", [True, False])
def test_each_bad_row_of_csv_is_counted_by_its_reason_and_named(tmp_path, multiline):
    rows = [b"id,text", b"1,good", b"2", b"3,a,b", b'4,"a"b', b"5,caf\xe9", b"", b'6,"also, good"']
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    source = CsvConfig(paths=[str(path)], multiline=multiline)
    assert read(source, 1024, "skip") == (
        ["good", "also, good"],
        {"wrong number of values": 2, "not CSV": 1, "invalid UTF-8": 1},
    )
    with pytest.raises(
        DataError, match=r"a\.csv: line 3: wrong number of values; the header has 2, the row 1"
    ):
        read(source)
    path.write_bytes(b'text\n"never closed\n')
    with pytest.raises(DataError, match=r"a\.csv: line 2: not CSV; unexpected end of data"):
        read(source)


def test_values_longer_than_the_limit_of_the_csv_module_and_tabs_are_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tid\n" + "x" * 200_000 + "\t1\n")
    assert read(CsvConfig(paths=[str(tmp_path)], delimiter="\t"))[0] == ["x" * 200_000]


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") == 2] + TABLES)
def test_a_file_that_breaks_off_is_an_error_and_one_skip(tmp_path, name):
    source = write(tmp_path, name, [os.urandom(200).hex() for _ in range(200)])
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        DataError, match=rf"{name}: unreadable file; .+: m(end|ake it anew) or remove it, or set"
    ):
        read(source)
    for unit_bytes in (1024, 1 << 20):
        texts, skipped = read(source, unit_bytes, "skip")
        assert skipped == {"unreadable file": 1}
        assert len(texts) < 200


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_damage_within_a_row_group_costs_that_group_alone(tmp_path, compression):
    source = write(tmp_path, "a.parquet", [])
    path = tmp_path / "a.parquet"
    texts = [os.urandom(50).hex() for _ in range(100)]
    parquet.write_table(table(texts), path, row_group_size=10, compression=compression)
    raw = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(3).column(1).dictionary_page_offset
    raw[start : start + 100] = b"\xff" * 100
    path.write_bytes(raw)
    for unit_bytes in (1024, 1 << 20):
        found = read(source, unit_bytes, "skip")
        assert found == (texts[:30] + texts[40:], {"damaged row group": 1})
    with pytest.raises(
        DataError, match=r"row group 3, row 0 \(from 0\): damaged row group; .+: make it anew"
    ):
        read(source)


@pytest.mark.parametrize("name", ["a.arrow", "a.arrows", "a.parquet"])
def test_no_damage_ends_the_process_or_depends_on_the_cut_into_units(tmp_path, name):
    source = write(tmp_path, name, TEXTS[:40])
    path = tmp_path / name
    raw, chance = path.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(raw)
        for _ in range(3):
            damaged[chance.randrange(len(raw))] = chance.randrange(256)
        path.write_bytes(damaged)
        assert read(source, 500, "skip") == read(source, 1 << 20, "skip")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{type: parqet, paths: [a]}", r"sources\.0\.type: unknown type 'parqet'; did you mean 'parquet'"),
        ("{type: jsonl, paths: [a], text_feld: b}", r"text_feld: unknown key; did you mean 'text_field'"),
        ("{type: csv, paths: [a], delimiter: '::'}", r"sources\.0\.delimiter: .*at most 1 character"),
        ("{type: arrow, paths: ['none/*.arrow']}", r"paths\.0: none/\*\.arrow matches no file; it is looked"),
        ("{type: hub}", r"sources\.0\.name: this key is required"),
    ],
)
def test_a_slip_in_the_config_is_found_before_any_text_is_read(tmp_path, source, said):
    (tmp_path / "run.yaml").write_text(f"sources: [{source}]\n")
    with pytest.raises(ConfigError, match=said):
        load(DataConfig, tmp_path / "run.yaml")
