"""Parallel text: line n of every file in one record; files that are not aligned are refused."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import ParallelConfig
from lumbre.errors import DataError

LINES = st.lists(
    st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"))] * 3), min_size=1
)


def parallel(train: object, **keys: object) -> ParallelConfig:
    """Return the config with the same files to train and to validate on."""
    return ParallelConfig.model_validate({"train": train, "validation": train, **keys})


@settings(deadline=None, max_examples=40)
@given(lines=LINES)
def test_a_record_has_line_n_of_every_language(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str, str]]
) -> None:
    """Separators of Unicode that are no line breaks in a file break no line."""
    folder = tmp_path_factory.getbasetemp()
    files = {}
    for language, column in zip(("en", "de", "fr"), zip(*lines, strict=True), strict=True):
        file = folder / f"text.{language}.gz"
        file.write_bytes(gzip.compress("".join(f"{text}\n" for text in column).encode()))
        files[language] = str(file)
    config = parallel(files)
    assert not list(config.all_problems())
    assert config.build()["train"] == [{"en": en, "de": de, "fr": fr} for en, de, fr in lines]


def test_files_are_paired_in_their_order(tmp_path: Path) -> None:
    for name in ("1.en", "1.de", "2.en", "2.de"):
        (tmp_path / name).write_text(f"{name}\r\n")
    config = parallel({"en": f"{tmp_path}/*.en", "de": [f"{tmp_path}/1.de", f"{tmp_path}/2.de"]})
    assert config.build()["train"] == [{"en": "1.en", "de": "1.de"}, {"en": "2.en", "de": "2.de"}]


def test_files_that_differ_in_lines_are_named_with_both_counts(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("1\n2\n3\n")
    (tmp_path / "a.de").write_text("1\n2\n")
    en, de = str(tmp_path / "a.en"), str(tmp_path / "a.de")
    with pytest.raises(DataError, match=f"not aligned: lines of {en} 3 and {de} 2; line n"):
        parallel({"en": en, "de": de}).build()


def test_languages_that_do_not_go_together_are_config_problems(tmp_path: Path) -> None:
    for name in ("1.en", "1.de", "2.en"):
        (tmp_path / name).write_text("x\n")
    en, de = f"{tmp_path}/1.en", f"{tmp_path}/1.de"
    assert not list(parallel({"en": en, "de": de}).all_problems())
    (absent,) = parallel({"en": en, "de": de}, test={"en": en, "de": f"{tmp_path}/3.de"}).all_problems(
        "data."
    )
    assert absent.key == "data.test.de"
    counts = next(parallel({"en": f"{tmp_path}/*.en", "de": de}).all_problems("data."))
    assert (counts.key, counts.fault) == ("data.train", "there are files: 2 of en, 1 of de")
    (other,) = parallel({"en": en, "de": de}, test={"en": en, "fr": de}).all_problems("data.")
    assert (other.key, other.fault) == ("data.test", "has en, fr, and the training split en, de")
    (none,) = ParallelConfig.model_validate({"train": {"en": en, "de": de}}).all_problems("data.")
    assert none.key == "data.validation"
