"""CoNLL column files: sentences come back as they were written, whichever columns hold them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import ConllConfig
from lumbre.errors import DataError

WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters=" \t\r\n\ufeff"), min_size=1, max_size=6
).filter(lambda word: word != "-DOCSTART-")
TAGS = st.sampled_from(["O", "B-PER", "I-PER"])
SENTENCES = st.lists(st.lists(st.tuples(WORDS, TAGS), min_size=1), min_size=1)


def conll(file: Path, **keys: object) -> ConllConfig:
    """Return the config that has the file for training and validation."""
    return ConllConfig.model_validate({"train": str(file), "validation": str(file), **keys})


@settings(deadline=None, max_examples=40)
@given(sentences=SENTENCES, columns=st.permutations(range(4)), blank=st.sampled_from([" ", "\t", " \t "]))
def test_sentences_are_read_back_from_any_columns(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[list[tuple[str, str]]],
    columns: list[int],
    blank: str,
) -> None:
    token_column, tag_column = columns[:2]
    lines = []
    for sentence in sentences:
        for token, tag in sentence:
            row = ["_"] * 4
            row[token_column], row[tag_column] = token, tag
            lines.append(blank.join(row) + "\n")
        lines.append("\n")
    file = tmp_path_factory.getbasetemp() / "columns.conll"
    file.write_text("".join(lines), encoding="utf-8", newline="")
    for tag_number in (tag_column, tag_column - 4):
        config = conll(file, token_column=token_column, tag_column=tag_number)
        assert not list(config.all_problems())
        assert config.build()["train"] == [
            {"tokens": [token for token, _ in sentence], "tags": [tag for _, tag in sentence]}
            for sentence in sentences
        ]


def test_documents_begin_no_sentence_and_the_last_needs_no_blank_line(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(
        "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n-DOCSTART-\n\n\nPeter NNP B-PER"
    )
    assert conll(tmp_path / "a.conll").build()["train"] == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "tags": ["B-PER"]},
    ]


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        (
            "a O\nb c O\n",
            {},
            r"a\.conll:2: 3 columns, and the lines before have 2; write a token without blanks",
        ),
        ("a O\n\nb\n", {}, r"a\.conll:3: 1 columns, and the lines before have 2"),
        ("a\nb\n", {}, r"a\.conll:1: of 1 columns, 0 and -1 are not two; set data\.token_column"),
        ("a O\n", {"tag_column": 3}, r"a\.conll:1: of 2 columns, 0 and 3 are not two"),
        ("\n\n", {}, "the split train has no example"),
    ],
)
def test_a_line_without_its_columns_is_named(
    tmp_path: Path, text: str, keys: dict[str, object], expected: str
) -> None:
    (tmp_path / "a.conll").write_text(text)
    with pytest.raises(DataError, match=expected):
        conll(tmp_path / "a.conll", **keys).build()


def test_token_and_tag_are_two_columns(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("a O\n")
    (problem,) = conll(tmp_path / "a.conll", tag_column=0).all_problems("data.")
    assert problem.key == "data.tag_column"
