"""Normalization and special tokens from the config, alike for every kind that is trained."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import stdlib
from lumbre.tokenizer import (
    BpeConfig,
    CharactersConfig,
    FileTokenizerConfig,
    TrainedConfig,
    UnigramConfig,
    WordPieceConfig,
)
from lumbre.tokenizer.normalization import STEPS, normalizer

TEXTS = [document.text for document in stdlib.documents("module")][:20]
KINDS = [WordPieceConfig, BpeConfig, UnigramConfig, CharactersConfig]
FORMS = ["nfc", "nfd", "nfkc", "nfkd"]
ORDINARY = st.text(
    st.characters(max_codepoint=0x36F, categories=["L", "M", "N", "P", "Zs"]) | st.sampled_from("ﬁＡ①가"),
    max_size=30,
)


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=50)
@given(text=ORDINARY)
def test_forms_are_those_of_unicode(form, text):
    assert normalizer([form]).normalize_str(text) == unicodedata.normalize(form.upper(), text)


def test_steps_are_taken_in_order():
    assert normalizer(list(STEPS)).normalize_str(" ﬁÀ\t É  x ") == "fia e x"
    assert normalizer([]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_normalizes_alike_has_the_same_ids(kind):
    tokenizer = kind(vocab_size=600, normalization=("nfkc", "lowercase", "strip_accents")).build(TEXTS)
    upper, lower = tokenizer.encode_batch(["ﬁnal CAFÉ Self", "final cafe self"])
    assert upper.tolist() == lower.tolist()


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_byte_level_ids_give_the_text_back(text):
    assert PLAIN.decode(PLAIN.encode_batch([text])[0]) == text


PLAIN = BpeConfig(vocab_size=600).build(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_further_special_tokens_are_special_and_no_text_gives_them(kind, tmp_path):
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    told = [*TEXTS, "what <|fim_prefix|> does <|fim_suffix|> in <|fim_middle|>\n" * 100]
    tokenizer = kind(vocab_size=800, special_tokens=names, sentinels=2).build(told)
    tokenizer.save(tmp_path)
    for one in (tokenizer, FileTokenizerConfig(path=str(tmp_path)).build([])):
        ids = {one.backend.token_to_id(name) for name in names}
        assert len(ids) == len(names)
        assert ids < one.special_ids
        assert not ids.intersection(one.encode_batch([" ".join(names)])[0].tolist())
        assert one.decode([*ids]) == ""
        assert one.fingerprint == tokenizer.fingerprint
    assert tokenizer.vocab_size <= 800


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_of_a_usual_name_plays_the_role(kind, tmp_path):
    tokenizer = kind(vocab_size=600, special_tokens=("<bos>",)).build(TEXTS)
    own = kind.roles.get("bos")
    assert tokenizer.specials["bos"] == (own or "<bos>")
    tokenizer.save(tmp_path)
    assert FileTokenizerConfig(path=str(tmp_path)).build([]).specials == tokenizer.specials


def problems(**keys: object) -> list[str]:
    return [str(problem) for problem in WordPieceConfig(vocab_size=600, **keys).problems()]


def test_special_tokens_that_cannot_be_are_refused():
    assert problems(special_tokens=("<|user|>", "[user]", "<s>")) == []
    assert problems(special_tokens=("<a>", "[MASK]", "<a>")) == [
        "special_tokens.1: '[MASK]' is a special token already; leave it out",
        "special_tokens.2: '<a>' is a special token already; leave it out",
    ]
    for name in ("user", "", "<>", "<a b>", "<a", "_a_"):
        (problem,) = problems(special_tokens=(name,))
        assert "could be a word of the text" in problem
    (problem,) = problems(special_tokens=tuple(f"<{number}>" for number in range(100)))
    assert problem.startswith("special_tokens: 100 of 600 tokens leave fewer than 512; use vocab_size 612")
    assert issubclass(WordPieceConfig, TrainedConfig)
