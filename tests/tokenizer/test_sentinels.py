"""Sentinels: special tokens by T5's names, in tokenizers that are trained and in files."""

from pathlib import Path

import pytest
import tokenizers

from lumbre.tokenizer import BpeConfig, FileTokenizerConfig, Tokenizer, UnigramConfig, WordPieceConfig

TEXT = ["the quick brown fox jumps over the lazy dog again and again, " * 20]
TOKENIZERS = [
    kind(vocab_size=1024, sentinels=100).build(TEXT) for kind in (WordPieceConfig, BpeConfig, UnigramConfig)
]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["wordpiece", "bpe", "unigram"])
def test_sentinels_are_special_and_text_that_names_them_is_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert len(tokenizer.sentinel_ids) == 100
    assert set(tokenizer.sentinel_ids) <= tokenizer.special_ids
    (ids,) = tokenizer.encode_batch(["the token <extra_id_0> is text"])
    assert not set(ids.tolist()).intersection(tokenizer.sentinel_ids)
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [
        tokenizer.sentinel_ids[0],
        tokenizer.sentinel_ids[99],
    ]
    assert FileTokenizerConfig(path=str(tmp_path)).build([]).sentinel_ids == tokenizer.sentinel_ids


def test_sentinels_of_a_file_are_found_by_name(tmp_path: Path) -> None:
    """T5's own stand at the end of the vocabulary, the first last."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "x": 2}, "x"))
    backend.add_special_tokens(["<pad>", "</s>", *(f"<extra_id_{number}>" for number in (4, 2, 1, 0))])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert FileTokenizerConfig(path=str(tmp_path)).build([]).sentinel_ids == (6, 5, 4)


def test_too_many_sentinels_are_refused() -> None:
    problems = list(BpeConfig(vocab_size=600, sentinels=100).problems())
    assert [str(one) for one in problems] == [
        "sentinels: 100 of 600 tokens leave fewer than 512; use vocab_size 612 or more"
    ]
