"""Files of examples: one, several or a glob for each split, packed or not; faults have file and line."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from finetune.data import ExamplesConfig, JsonlConfig
from lumbre.config import load
from lumbre.errors import ConfigError, DataError

WHOLE = b'{"text": "one", "label": 1}\n'
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
}


def jsonl(folder: Path, **files: bytes) -> JsonlConfig:
    """Return the config of three files, each whole where nothing else is asked for."""
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_bytes(files.get(split, WHOLE))
    return JsonlConfig.model_validate(
        {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    )


def test_jsonl_records_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    """A byte order mark and what else breaks lines in Unicode are no fault."""
    whole = b"\xef\xbb\xbf" + WHOLE + b"\n  \n" + '{"text": "zwölf 🔥\u2028"}'.encode()
    assert jsonl(tmp_path, train=whole).build()["train"] == [
        {"text": "one", "label": 1},
        {"text": "zwölf 🔥\u2028"},
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "on\n', "test.jsonl:3: is not JSON: "),
        (b"[1, 2]\n", "test.jsonl:3: a JSON object is expected, got a list"),
        (b'{"text": "caf\xe9"}\n', "test.jsonl:3: is not UTF-8: byte 14 of the line is 0xe9; save the file"),
        (b"[" * 100_000 + b"\n", "test.jsonl:3: is not JSON: "),
    ],
    ids=["cut", "list", "latin", "deep"],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        jsonl(tmp_path, test=WHOLE + b"\n" + line + WHOLE).build()
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the split validation has no example"):
        jsonl(tmp_path, validation=b"\n").build()


def test_a_missing_file_is_a_config_problem(tmp_path: Path) -> None:
    config = jsonl(tmp_path)
    assert not list(config.all_problems("data."))
    (tmp_path / "validation.jsonl").unlink()
    (problem,) = config.all_problems("data.")
    assert problem.key == "data.validation"
    assert f"{tmp_path}/validation.jsonl does not exist" in problem.fault


@pytest.mark.parametrize("value", [5, [], {"en": "a.jsonl"}])
def test_what_names_no_file_is_a_config_problem(tmp_path: Path, value: object) -> None:
    (tmp_path / "data.yaml").write_text(
        json.dumps({"type": "jsonl", "train": value, "validation_share": 0.5})
    )
    with pytest.raises(ConfigError, match="train: should be a file, or a list of files and globs, got "):
        load(ExamplesConfig, tmp_path / "data.yaml")


def test_of_several_names_the_one_without_a_file_is_told(tmp_path: Path) -> None:
    jsonl(tmp_path)
    names = [f"{tmp_path}/train.jsonl", f"{tmp_path}/*.json", str(tmp_path)]
    config = JsonlConfig.model_validate({"train": names, "validation": names[0]})
    glob, folder = config.all_problems("data.")
    assert (glob.key, glob.fault) == ("data.train.1", f"{tmp_path}/*.json matches no file")
    assert (folder.key, folder.fault) == ("data.train.2", f"{tmp_path} is a folder: name the files")


def test_a_split_is_a_file_a_list_or_a_glob(tmp_path: Path) -> None:
    """Files keep the order of the list, those of a glob are sorted; a split without a name is not there."""
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"file": "{name}"}}\n')

    def read(value: object) -> str:
        config = JsonlConfig.model_validate({"train": value, "validation": f"{tmp_path}/c.jsonl"})
        splits = config.build()
        assert list(splits) == ["train", "validation"]
        return "".join(record["file"] for record in splits["train"])

    assert read(f"{tmp_path}/b.jsonl") == "b"
    assert read([f"{tmp_path}/b.jsonl", f"{tmp_path}/a.jsonl"]) == "ba"
    assert read(f"{tmp_path}/*.jsonl") == "abc"
    assert read([f"{tmp_path}/c.jsonl", f"{tmp_path}/[ab].jsonl"]) == "cab"


@pytest.mark.parametrize("packed", PACK)
def test_a_packed_file_gives_the_same_records(tmp_path: Path, packed: str) -> None:
    lines = "".join(f'{{"at": {at}}}\n' for at in range(5000)).encode()
    file = tmp_path / f"a.jsonl{packed}"
    file.write_bytes(PACK[packed](lines))
    config = JsonlConfig.model_validate({"train": str(file), "validation": str(file)})
    assert config.build()["train"] == [{"at": at} for at in range(5000)]


@pytest.mark.parametrize("packed", [name for name in PACK if name])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_packed_file_that_breaks_off_is_named(tmp_path: Path, packed: str, damage: str) -> None:
    raw = PACK[packed](b"".join(b'{"at": %d}\n' % at for at in range(5000)))
    file = tmp_path / f"a.jsonl{packed}"
    file.write_bytes(raw[: len(raw) // 2] if damage == "cut" else WHOLE)
    with pytest.raises(DataError, match=rf"a\.jsonl{packed}: cannot be read: .*; mend it or make it anew"):
        JsonlConfig.model_validate({"train": str(file), "validation": str(file)}).build()
