"""The fast encoder: its ids are the library's, for any text, whatever was encoded before."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import stdlib
from lumbre.tokenizer import BpeConfig, Encoder, Tokenizer, UnigramConfig, WordPieceConfig, encoder

pytest.importorskip("gigatoken")

TEXTS = [document.text for document in stdlib.documents("module")][:20]
BPE = BpeConfig(vocab_size=1024, sentinels=2, special_tokens=("<|user|>",)).build(TEXTS)
FAST = BPE.encoder()
COMPOSED = BpeConfig(vocab_size=600, normalization=("nfc",)).build(TEXTS[:9])
NFC = COMPOSED.encoder()


def listed(ids: list[np.ndarray]) -> list[list[int]]:
    return [one.tolist() for one in ids]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(max_size=60), max_size=4))
def test_fast_and_plain_ids_of_any_text_are_equal(texts):
    assert FAST.is_fast
    assert listed(FAST.encode_batch(texts)) == listed(BPE.encode_batch(texts))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.sampled_from(
            [" ", "\n", "  ", "'s", "a", "Ä", "1", "_", "東", "🔥", "\u0301", *BPE.specials.values()]
        )
    )
)
def test_fast_and_plain_ids_are_equal_where_words_meet(parts):
    text = "".join(parts)
    assert listed(FAST.encode_batch([text])) == listed(BPE.encode_batch([text]))


@pytest.mark.slow
def test_fast_and_plain_ids_of_every_character_are_equal():
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for start in range(0, len(points), 1 << 14):
        letters = map(chr, points[start : start + (1 << 14)])
        texts = [f"a{c}1{c} {c}!{c}{c} " for c in letters]
        assert listed(FAST.encode_batch(texts)) == listed(BPE.encode_batch(texts))


def test_a_long_document_and_a_corpus_have_the_library_s_ids():
    texts = [*TEXTS, "\n\n".join(TEXTS)[:300_000], "no_space" * 40_000, ""]
    assert FAST.prove(texts)
    ids = FAST.encode_batch(texts)
    assert {one.dtype for one in ids} == {np.dtype(np.uint32)}
    assert listed(ids) == listed(BPE.encode_batch(texts))


def test_text_that_names_a_special_token_is_text():
    texts = [
        f"the token {token.content} is text" for token in BPE.backend.get_added_tokens_decoder().values()
    ]
    for ids in FAST.encode_batch(texts):
        assert not BPE.special_ids.intersection(ids[:-1].tolist())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(["e", "\u0301", "É", "각", "ᄀ", "\u11a8", " ", "가"])))
def test_fast_and_plain_ids_are_equal_where_letters_are_composed(parts):
    assert NFC.is_fast
    assert listed(NFC.encode_batch(["".join(parts)])) == listed(COMPOSED.encode_batch(["".join(parts)]))


def test_added_tokens_that_are_not_special_are_found_in_text_by_the_library():
    backend = tokenizers.Tokenizer.from_str(BPE.backend.to_str())
    backend.add_tokens(["lookup"])
    added = Tokenizer(backend, BPE.specials)
    assert not added.encoder().is_fast
    assert backend.token_to_id("lookup") in added.encoder().encode_batch(["a lookup table"])[0]


def test_what_gigatoken_does_not_take_is_the_library_s():
    lowercase = BpeConfig(normalization=("nfc", "lowercase")).build(TEXTS[:9])
    others = [kind(vocab_size=600).build(TEXTS[:9]) for kind in (WordPieceConfig, UnigramConfig)]
    for tokenizer in (*others, lowercase):
        plain = tokenizer.encoder()
        assert not plain.is_fast
        assert not plain.prove(TEXTS[:9])
        assert listed(plain.encode_batch(TEXTS)) == listed(tokenizer.encode_batch(TEXTS))
    assert not BPE.encoder(fast=False).is_fast


class Wrong:
    """A fast encoder that is wrong where a text holds a certain word."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.calls = 0

    def encode(self, text: str) -> np.ndarray:
        self.calls += 1
        ids = BPE.ids([text])[0]
        return ids[::-1] if self.word in text else ids


def wrong(tokenizer: Tokenizer, word: str) -> Encoder:
    made = tokenizer.encoder()
    made._fast = Wrong(word)
    return made


def test_a_proof_that_fails_ends_the_use_of_the_fast_one():
    other = wrong(BPE, "import")
    assert not other.prove(["nothing here", "an import there"])
    assert not other.is_fast
    assert listed(other.encode_batch(TEXTS)) == listed(BPE.encode_batch(TEXTS))
    assert wrong(BPE, "a word that is nowhere").prove(TEXTS)


def test_one_wrong_piece_among_those_compared_turns_the_whole_call_to_the_library(monkeypatch):
    """And the next call is not touched: what a call returns depends on its texts alone."""
    monkeypatch.setattr(encoder, "COMPARED", 2)
    texts = [f"line {number} import" for number in range(64)]
    other = wrong(BPE, "import")
    assert listed(other.encode_batch(texts)) == listed(BPE.encode_batch(texts))
    assert other.is_fast
    calls = other._fast.calls
    other.encode_batch(["something else"])
    assert other._fast.calls == calls + 1


def test_a_renewed_cache_changes_no_id(monkeypatch):
    monkeypatch.setattr(encoder, "RENEWED_TOKENS", 1000)
    made = BPE.encoder()
    first = made._fast
    assert listed(made.encode_batch(TEXTS)) + listed(made.encode_batch(TEXTS)) == 2 * listed(
        BPE.encode_batch(TEXTS)
    )
    assert made._fast is not first
