"""Unigram: the likeliest pieces, special tokens that no text gives, and what becomes of the text."""

import json
import math

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import stdlib
from lumbre.errors import TokenizerError
from lumbre.tokenizer import Tokenizer, UnigramConfig

TEXTS = [document.text for document in stdlib.documents("module")][:20]
TOKENIZER = UnigramConfig(vocab_size=1024).build(TEXTS)
MODEL = json.loads(TOKENIZER.backend.to_str())["model"]
SCORES = {piece: score for number, (piece, score) in enumerate(MODEL["vocab"]) if number > 2}
LETTERS = sorted({piece for piece in SCORES if len(piece) == 1} - {"▁"})


def best_score(word: str) -> float:
    """Viterbi's own recursion over a word of known letters (Kudo, 2018, 3.2)."""
    best = [0.0] + [-math.inf] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(max(0, end - 16), end):
            best[end] = max(best[end], best[start] + SCORES.get(word[start:end], -math.inf))
    return best[-1]


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=LETTERS, min_size=1, max_size=30))
def test_pieces_are_the_likeliest(word):
    (ids,) = TOKENIZER.encode_batch([word])
    normal = "▁" + TOKENIZER.backend.normalizer.normalize_str(word)
    pieces = [TOKENIZER.backend.id_to_token(int(number)) for number in ids[:-1]]
    if "<unk>" in pieces:
        assert not set(normal) <= set(SCORES)
        return
    assert "".join(pieces) == normal
    assert sum(map(SCORES.__getitem__, pieces)) == pytest.approx(best_score(normal), abs=1e-6)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=[*LETTERS, " ", "\n", "\t", "ﬁ", "Ａ"]))
def test_ids_give_the_normalized_text_back(text):
    (ids,) = TOKENIZER.encode_batch([text])
    if TOKENIZER.unk_id not in ids:
        assert TOKENIZER.decode(ids) == TOKENIZER.backend.normalizer.normalize_str(text)


def test_spaces_and_compatibility_characters_are_tidied():
    tidy, untidy = TOKENIZER.encode_batch(["fine words here", "  ﬁne\twords\n\nhere  "])
    assert tidy.tolist() == untidy.tolist()


def test_a_corpus_of_special_names_teaches_none_of_them():
    text = "<pad> </s> <unk> <extra_id_0> <|user|> \u2585 \0 ▁ some words " * 200
    config = UnigramConfig(vocab_size=512, sentinels=1, special_tokens=("<|user|>", "<ℂ>"), normalization=())
    tokenizer = config.build([text, "<ℂ>b <ℂ>c <ℂ> <Ω₪> ◌ <ªª>" * 300])
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.special_ids.intersection(ids[:-1].tolist()) <= {tokenizer.unk_id}
    assert len(tokenizer.special_ids) == 6
    words = [piece for piece, _ in json.loads(tokenizer.backend.to_str())["model"]["vocab"]]
    assert len(words) == len(set(words))


def test_scores_are_the_same_after_saving(tmp_path):
    TOKENIZER.save(tmp_path)
    again = json.loads(Tokenizer.load(tmp_path).backend.to_str())
    assert again["model"] == MODEL


def test_a_score_s_last_bit_is_not_in_the_fingerprint(tmp_path):
    """Published scores have 24 bits, of which the library reads some back as another number of 53."""
    scores = -np.random.default_rng(0).gamma(9, size=500).astype(np.float32)
    words = [("<unk>", 0.0), *((f"w{index}", float(score)) for index, score in enumerate(scores))]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(words, unk_id=0))
    tokenizer = Tokenizer(backend, {"unk": "<unk>"})
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.backend.to_str() != backend.to_str()
    assert again.fingerprint == tokenizer.fingerprint


def test_text_that_teaches_nothing_is_explained():
    with pytest.raises(TokenizerError, match=r"Unigram cannot be trained: .*more text"):
        UnigramConfig().build([])
