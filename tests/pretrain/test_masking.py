"""What is masked: tokens, whole words, spans of words, each word as often as the config says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import distributed
from lumbre.distributed import Stream
from lumbre.errors import TokenizerError
from lumbre.models import NO_TARGET
from lumbre.tokenizer import BpeConfig, Tokenizer, UnigramConfig, WordPieceConfig
from pretrain.objectives import MlmConfig
from pretrain.objectives.base import Row
from pretrain.objectives.masking import SpanLaw, word_spans, word_starts, words

TEXT = ["the quick brown fox jumps over the lazy dog again and again\nuntil it is tired " * 20]
STRANGE = "unquestionably the quickest brownish foxhound\noverjumps lazily doggedly"
TOKENIZERS: dict[str, Tokenizer] = {
    "wordpiece": WordPieceConfig(vocab_size=512).build(TEXT),
    "bpe": BpeConfig(vocab_size=520, special_tokens=("<mask>",)).build(TEXT),
    "unigram": UnigramConfig(vocab_size=512, special_tokens=("<mask>",)).build(TEXT),
}
every_tokenizer = pytest.mark.parametrize("kind", sorted(TOKENIZERS))
every_masking = pytest.mark.parametrize("masking", ["token", "whole_word", "span"])


def packed(parts: list[Any], padding: int = 0) -> Row:
    sizes = [*map(len, parts), padding]
    return {
        "input_ids": np.concatenate([*parts, np.zeros(padding)]).astype(np.int64),
        "document_ids": np.repeat([*range(1, len(parts) + 1), 0], sizes).astype(np.int32),
    }


def words_of(tokenizer: Tokenizer, row: Row) -> Any:
    ordinary = (row["document_ids"] != 0) & ~np.isin(row["input_ids"], sorted(tokenizer.special_ids))
    starts = word_starts(tokenizer)
    assert starts is not None
    return words(row["input_ids"], row["document_ids"], ordinary, starts)


def drawn_row(seed: int, tokenizer: Tokenizer, lengths: list[int]) -> Row:
    """Return documents of ordinary tokens, each between its begin and end tokens, and padding."""
    numbers = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    parts = [
        np.concatenate([tokenizer.document_begin, numbers.choice(ordinary, length), tokenizer.document_end])
        for length in lengths
    ]
    return packed(parts, padding=5)


@every_tokenizer
def test_words_are_those_of_the_text(kind: str) -> None:
    """Cut between two documents in the middle of a word, each has a part of it."""
    tokenizer = TOKENIZERS[kind]
    (ids,) = tokenizer.encode_batch([STRANGE])
    row = packed([ids, ids], padding=3)
    found = words_of(tokenizer, row)
    texts = [
        tokenizer.decode(row["input_ids"][start:stop]).removeprefix("##").strip()
        for start, stop in zip(found.start_W, found.stop_W, strict=True)
    ]
    assert texts == STRANGE.split() * 2
    assert found.first_W.tolist() == ([True] + [False] * (len(texts) // 2 - 1)) * 2
    inner = int(np.flatnonzero(np.diff(found.start_W) > 1)[0])
    cut = int(found.start_W[inner]) + 1
    halves = words_of(tokenizer, packed([ids[:cut], ids[cut:]]))
    assert len(halves.start_W) == len(texts) // 2 + 1
    assert halves.first_W.sum() == 2


@every_tokenizer
@pytest.mark.parametrize("masking", ["whole_word", "span"])
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.02, 0.98),
    sample=st.integers(0, 2**40),
)
def test_a_word_is_chosen_whole_or_not_at_all(
    kind: str, masking: Any, lengths: list[int], share: float, sample: int
) -> None:
    tokenizer = TOKENIZERS[kind]
    row = drawn_row(sample, tokenizer, lengths)
    noised = MlmConfig(masking=masking, mask_probability=share).build(tokenizer, 3).apply(row, sample)
    target = noised["labels"] != NO_TARGET
    found = words_of(tokenizer, row)
    of_words = np.zeros(len(target), dtype=bool)
    for start, stop in zip(found.start_W, found.stop_W, strict=True):
        assert target[start:stop].all() or not target[start:stop].any()
        assert len(set(row["document_ids"][start:stop].tolist())) == 1
        of_words[start:stop] = True
    special = np.isin(row["input_ids"], sorted(tokenizer.special_ids)) | (row["document_ids"] == 0)
    assert np.array_equal(of_words, ~special)
    assert not target[special].any()
    assert np.array_equal(noised["labels"][target], row["input_ids"][target])
    assert np.array_equal(noised["input_ids"][~target], row["input_ids"][~target])


@every_masking
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_every_token_is_a_target_as_often_as_the_config_says(masking: Any, share: float) -> None:
    """Within 3 standard errors over documents, at a document's start, its end and all over."""
    tokenizer = TOKENIZERS["bpe"]
    row = drawn_row(1, tokenizer, [12] * 3000)
    noised = MlmConfig(masking=masking, mask_probability=share).build(tokenizer, 1).apply(row, 0)
    target_LM = (noised["labels"] != NO_TARGET)[:-5].reshape(3000, -1)[:, :12]
    for places in (slice(0, 1), slice(5, 6), slice(11, 12), slice(None)):
        rates_L = target_LM[:, places].mean(axis=1)
        assert abs(rates_L.mean() - share) < 3 * rates_L.std() / math.sqrt(len(rates_L))


def test_spans_have_the_lengths_of_spanbert() -> None:
    """Geometric with p = 0.2 among 1 to 10, 3.8 on average; none goes over a document's bounds."""
    law = SpanLaw(0.15, 0.2, 10)
    numbers = np.random.default_rng(2)
    count = 200_000
    first = np.arange(count) == 0
    spans = law.spans(first, *numbers.random((2, count)))
    lengths = np.array([stop - start for start, stop in spans[1:-1]])
    expected = 0.8 ** np.arange(10) / (0.8 ** np.arange(10)).sum()
    assert (expected * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)
    for length, probability in enumerate(expected, start=1):
        within_three_sigma((lengths == length).sum(), len(lengths), probability)
    covered = sum(stop - start for start, stop in spans) / count
    assert abs(covered - 0.15) < 3 * 0.15 * math.sqrt(2 / len(spans))
    documents = np.arange(count) % 8 == 0
    inside = np.zeros(count, dtype=bool)
    for start, stop in law.spans(documents, *numbers.random((2, count))):
        assert start // 8 == (stop - 1) // 8
        inside[start:stop] = True
    for place in inside.reshape(-1, 8).T:
        within_three_sigma(place.sum(), len(place), 0.15)


def test_a_span_has_one_fate_and_the_tokens_of_a_word_have_their_own() -> None:
    """80/10/10 of the spans; of words of two pieces, both are masked in 64%; within 3 sigma."""
    tokenizer = TOKENIZERS["bpe"]
    row = drawn_row(2, tokenizer, [90] * 700)
    found = words_of(tokenizer, row)
    law = SpanLaw(0.15, 0.2, 10)
    noised = MlmConfig(masking="span").build(tokenizer, 4).apply(row, 7)
    # The draws of the objective, as it makes them.
    chance = distributed.random(4, Stream.NOISE, 7)
    chosen_T, _ = chance.random((2, len(row["input_ids"])))
    chance.choice(np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids)), len(chosen_T))
    target_T, leader_T = word_spans(found, chosen_T, chance.random(len(chosen_T)), law)
    assert np.array_equal(target_T, noised["labels"] != NO_TARGET)
    leaders = np.unique(leader_T[target_T])
    masked = noised["input_ids"] == tokenizer.mask_id
    kept = noised["input_ids"] == row["input_ids"]
    assert np.array_equal(masked[target_T], masked[leader_T[target_T]])
    within_three_sigma(masked[leaders].sum(), len(leaders), 0.8)
    sizes = np.bincount(leader_T[target_T], minlength=len(target_T))[leaders]
    many = leaders[sizes >= 4]
    same = [bool(kept[target_T & (leader_T == one)].all()) for one in many]
    within_three_sigma(sum(same), len(many), 0.1)

    noised = MlmConfig(masking="whole_word").build(tokenizer, 4).apply(row, 7)
    masked, target_T = noised["input_ids"] == tokenizer.mask_id, noised["labels"] != NO_TARGET
    pairs = found.start_W[(found.stop_W - found.start_W == 2) & target_T[found.start_W]]
    within_three_sigma((masked[pairs] & masked[pairs + 1]).sum(), len(pairs), 0.64)


def within_three_sigma(count: float, trials: int, probability: float) -> None:
    assert abs(count - trials * probability) < 3 * math.sqrt(trials * probability * (1 - probability))


@every_masking
@settings(max_examples=10, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_noise_is_a_function_of_seed_and_sample(masking: Any, sample: int, seed: int) -> None:
    tokenizer, config = TOKENIZERS["wordpiece"], MlmConfig(masking=masking)
    row = drawn_row(1, tokenizer, [120, 120])
    one, two = (config.build(tokenizer, seed).apply(row, sample) for _ in range(2))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    for other in (
        config.build(tokenizer, seed).apply(row, sample + 1),
        config.build(tokenizer, seed ^ 1).apply(row, sample),
        config.build(tokenizer, seed).apply(row, sample, Stream.EVALUATION_NOISE),
    ):
        assert not np.array_equal(one["labels"], other["labels"])


@settings(max_examples=10, deadline=None)
@given(sample=st.integers(0, 2**40), share=st.floats(0.05, 0.9))
def test_masks_of_tokens_are_three_draws_of_one_generator(sample: int, share: float) -> None:
    """Whether, fate and replacement, drawn in this order: a run's masks stay what they were."""
    tokenizer = TOKENIZERS["wordpiece"]
    row = drawn_row(sample, tokenizer, [50, 70])
    tokens = row["input_ids"]
    special = sorted(tokenizer.special_ids)
    chance = distributed.random(9, Stream.NOISE, sample)
    whether, fate = chance.random((2, len(tokens)))
    replacement = chance.choice(np.setdiff1d(np.arange(tokenizer.vocab_size), special), len(tokens))
    target = (whether < share) & ~np.isin(tokens, special) & (row["document_ids"] != 0)
    seen = np.where(fate < 0.8, tokenizer.mask_id, np.where(fate < 0.9, replacement, tokens))
    noised = MlmConfig(mask_probability=share).build(tokenizer, 9).apply(row, sample)
    assert np.array_equal(noised["labels"], np.where(target, tokens, NO_TARGET))
    assert np.array_equal(noised["input_ids"], np.where(target, seen, tokens))


def test_a_tokenizer_that_marks_no_words_is_refused(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, "x"))
    backend.add_special_tokens(["<mask>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    MlmConfig().build(tokenizer, 1)
    with pytest.raises(
        TokenizerError, match=r"does not mark where words begin; use objective\.masking=token"
    ):
        MlmConfig(masking="span").build(tokenizer, 1)
