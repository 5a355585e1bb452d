"""Tables: what csv and pandas write is read back; a row that does not fit its header is named."""

import csv
import io
from pathlib import Path

import pandas
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from finetune.data import TableConfig
from lumbre.errors import DataError

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def table(file: Path, **keys: object) -> TableConfig:
    """Return the config that has the file for training and validation."""
    return TableConfig.model_validate({"train": str(file), "validation": str(file), **keys})


def records(file: Path, **keys: object) -> list[dict[str, object]]:
    """Return a file's records."""
    config = table(file, **keys)
    assert not list(config.all_problems())
    return [dict(record) for record in config.build()["train"]]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(VALUES, VALUES), min_size=1),
    header=st.booleans(),
    name=st.sampled_from([".csv", ".tsv"]),
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], header: bool, name: str
) -> None:
    """Delimiters, quotes and line breaks within values too."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="," if name == ".csv" else "\t")
    writer.writerows([("x", "y"), *rows] if header else rows)
    file = tmp_path_factory.getbasetemp() / f"quoted{name}"
    file.write_text(text.getvalue(), encoding="utf-8", newline="")
    keys = {} if header else {"columns": ["x", "y"]}
    assert records(file, quoted=True, **keys) == [{"x": x, "y": y} for x, y in rows]


def test_a_table_reads_as_pandas_reads_it(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": ['a "b", c', "d\n\ne", "", "é"], "label": ["1", "0", "1", "x"]})
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    wanted = frame.to_dict("records")
    assert records(tmp_path / "a.csv.gz") == wanted
    assert records(tmp_path / "a.parquet") == wanted


def test_quotes_in_a_tsv_are_characters(tmp_path: Path) -> None:
    """As in GLUE's files, where a quote may stand alone."""
    (tmp_path / "a.tsv").write_text('x\ty\r\n"one\t1\r\n\r\ntwo" 2"\t"0"\r\n')
    assert records(tmp_path / "a.tsv") == [{"x": '"one', "y": "1"}, {"x": 'two" 2"', "y": '"0"'}]


def test_a_parquet_file_keeps_its_types(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "score": 0.5, "label": 1}, {"tokens": [], "score": None, "label": 2}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == rows


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("a.csv", b'x,y\n"1\n2",3\n\n4\n', r"a\.csv:5: the row has 1 values for 2 columns; quote a value"),
        (
            "a.tsv",
            b"x\ty\n1\t2\n3\t4\t5\n",
            r"a\.tsv:3: the row has 3 values for 2 columns; set data\.quoted",
        ),
        (
            "a.csv",
            b'x,y\n1,2\n"3"4,5\n',
            r"a\.csv:3: is not a row: .*; write a quote within a quoted value twice",
        ),
        ("a.csv", b'x,y\n1,2\n"3,4\n5,6\n', r"a\.csv:3: is not a row: unexpected end of data"),
        ("a.csv", b"x,y,x\n1,2,3\n", r"a\.csv:1: two columns are named 'x'; rename one"),
        ("a.csv", b"x,y\n1,caf\xe9\n", r"a\.csv:2: is not UTF-8: byte 6 of the line is 0xe9"),
        ("a.csv", b"", "the split train has no example"),
        ("a.parquet", b"PAR1", r"a\.parquet: is no whole Parquet file: .*; make it anew"),
    ],
)
def test_a_table_that_is_broken_is_named(tmp_path: Path, name: str, raw: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=expected):
        records(tmp_path / name)


def test_a_parquet_file_that_breaks_off_or_rots_is_named(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": [f"text {at}" for at in range(20_000)]}), tmp_path / "a.parquet")
    raw = (tmp_path / "a.parquet").read_bytes()
    for broken in (raw[: len(raw) // 2], raw[:1000] + b"\xff" * 1000 + raw[2000:]):
        (tmp_path / "a.parquet").write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.parquet: (is no whole Parquet file|cannot be read): .+"):
            records(tmp_path / "a.parquet")


def test_a_name_that_says_no_format_is_a_config_problem(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n1\n")
    train, validation = table(tmp_path / "a.txt").all_problems("data.")
    assert (train.key, validation.key) == ("data.train", "data.validation")
    assert "a.txt is of no table; it can be .csv, .tsv (packed or not) or .parquet" in str(train)
    (tmp_path / "a.csv").write_text("1,2\n")
    (twice,) = table(tmp_path / "a.csv", columns=["x", "x"]).all_problems("data.")
    assert twice.key == "data.columns"
