"""Labelled examples: splits that share nothing, and files whose faults are named."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import Examples, ExamplesConfig, JsonlConfig, StdlibFunctionsConfig
from lumbre import stdlib
from lumbre.errors import DataError

WHOLE = b'{"text": "one", "label": 1}\n'


def jsonl(folder: Path, **files: bytes) -> JsonlConfig:
    """Return the config of three files, each whole where nothing else is asked for."""
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_bytes(files.get(split, WHOLE))
    return JsonlConfig(**{split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")})


def test_stdlib_functions_have_every_label_in_each_split_and_no_text_in_two() -> None:
    splits = StdlibFunctionsConfig().build()
    assert list(splits) == ["train", "validation", "test"]
    texts = {split: [record["text"] for record in records] for split, records in splits.items()}
    for records in splits.values():
        assert {record["label"] for record in records} == set(stdlib.PACKAGES)
        assert all(record["module"].split(".")[0] == record["label"] for record in records)
    together = [text for of_split in texts.values() for text in of_split]
    assert len(set(together)) == len(together)


class Numbers(ExamplesConfig):
    """As many records as asked for; no name, so that it does not join the registry."""

    count: int

    def read(self) -> Examples:
        return {"train": [{"at": at} for at in range(self.count)], "validation": [{}], "test": [{}]}


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 3000), limit=st.integers(1, 3000))
def test_a_limit_spreads_evenly_over_the_training_split(count: int, limit: int) -> None:
    """Gaps differ by one at most, no record is used twice, and the other splits stay whole."""
    splits = Numbers(type="", count=count, train_limit=limit).build()
    kept = [record["at"] for record in splits["train"]]
    assert len(kept) == min(count, limit)
    gaps = {right - left for left, right in zip(kept, [*kept[1:], count], strict=True)}
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert kept[0] == 0
    assert len(splits["test"]) == 1


def test_a_limit_leaves_no_stdlib_label_out() -> None:
    splits = StdlibFunctionsConfig(train_limit=200).build()
    assert len(splits["train"]) == 200
    assert {record["label"] for record in splits["train"]} == set(stdlib.PACKAGES)


def test_jsonl_records_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    config = jsonl(tmp_path, train=WHOLE + b"\n  \n" + '{"text": "zwölf 🔥"}'.encode())
    assert config.build()["train"] == [{"text": "one", "label": 1}, {"text": "zwölf 🔥"}]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "on\n', "test.jsonl:3: is not JSON: "),
        (b"[1, 2]\n", "test.jsonl:3: a JSON object is expected, got a list"),
        (b'{"text": "caf\xe9"}\n', "test.jsonl:3: is not UTF-8: byte 14 of the line is 0xe9"),
    ],
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
