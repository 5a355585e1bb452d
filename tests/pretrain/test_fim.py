"""Filling in the middle: the published rates and cuts, undone exactly, document by document."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.distributed import Stream
from lumbre.errors import TokenizerError
from lumbre.tokenizer import BpeConfig, Tokenizer, WordPieceConfig
from pretrain.objectives import ClmConfig, FimConfig
from pretrain.objectives.base import Row

TEXT = ["the quick brown fox jumps over the lazy dog again and again, " * 20]
NAMES = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")
TOKENIZERS = [
    kind(vocab_size=600, special_tokens=NAMES).build(TEXT)  # type: ignore[operator]
    for kind in (BpeConfig, WordPieceConfig)
]
BPE = TOKENIZERS[0]


def packed(parts: list[np.ndarray], padding: int = 0) -> Row:
    sizes = [*map(len, parts), padding]
    return {
        "input_ids": np.concatenate([*parts, np.full(padding, 7)]),
        "position_ids": np.concatenate([np.arange(size) for size in sizes]),
        "document_ids": np.repeat([*range(1, len(parts) + 1), 0], sizes).astype(np.int32),
    }


def plain(length: int) -> np.ndarray:
    return np.arange(length) + 300


@st.composite
def rows(draw: st.DrawFn, tokenizer: Tokenizer, most: int = 6) -> list[np.ndarray]:
    """Draw documents of ordinary tokens, some whole and some cut from their begin or end tokens."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    drawn = []
    for length in draw(st.lists(st.integers(1, 40), min_size=1, max_size=most)):
        begin, end = (
            part if draw(st.booleans()) else () for part in (tokenizer.document_begin, tokenizer.document_end)
        )
        drawn.append(np.concatenate([begin, numbers.choice(ordinary, length), end]).astype(np.int64))
    return drawn


def undone(document: list[int], tokenizer: Tokenizer) -> tuple[list[int], int, int]:
    """Return the text in order, and the lengths of its prefix and of what it ends in."""
    before, middle, after = (tokenizer.backend.token_to_id(name) for name in NAMES)
    begin = document[:1] if document[0] in tokenizer.document_begin else []
    end = document[-1:] if document[-1] in tokenizer.document_end else []
    text = document[len(begin) : len(document) - len(end)]
    assert text[0] == before
    at_suffix, at_middle = text.index(after), text.index(middle)
    prefix, suffix, last = text[1:at_suffix], text[at_suffix + 1 : at_middle], text[at_middle + 1 :]
    # Where the suffix is first, what is last is prefix and middle.
    return [*begin, *prefix, *last, *suffix, *end], len(prefix), len(last)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    sample=st.integers(0, 2**40),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    least=st.integers(4, 30),
)
def test_a_document_undone_is_itself_less_three_tokens_at_its_end(
    data: st.DataObject, sample: int, rate: float, least: int
) -> None:
    """It stays where it is and as long as it is; what is too short stays as it is; labels are clm's."""
    tokenizer = data.draw(st.sampled_from(TOKENIZERS))
    parts = data.draw(rows(tokenizer))
    row = packed(parts, 3)
    given = {key: array.copy() for key, array in row.items()}
    objective = FimConfig(fim_rate=rate, min_document_length=least).build(tokenizer, 1)
    noised = objective.apply(row, sample)
    assert all(np.array_equal(row[key], given[key]) for key in row)
    assert np.array_equal(noised["document_ids"], row["document_ids"])
    assert np.array_equal(noised["position_ids"], row["position_ids"])
    labels = (
        ClmConfig().build(tokenizer, 1).apply({**row, "input_ids": noised["input_ids"]}, sample)["labels"]
    )
    assert np.array_equal(noised["labels"], labels)
    marks = [tokenizer.backend.token_to_id(name) for name in NAMES]
    for number, document in enumerate(parts, start=1):
        found = noised["input_ids"][noised["document_ids"] == number]
        ends = [document[0] in tokenizer.document_begin, document[-1] in tokenizer.document_end]
        if len(document) - sum(ends) < least or rate == 0 or (rate < 1 and marks[0] not in found):
            assert np.array_equal(found, document)
            continue
        assert [int((found == mark).sum()) for mark in marks] == [1, 1, 1]
        text = len(document) - ends[1]
        expected = [*document[: text - 3], *document[text:]]
        assert undone(found.tolist(), tokenizer)[0] == expected


def arranged(config: FimConfig, length: int, count: int) -> list[np.ndarray]:
    noised = config.build(BPE, 5).apply(packed([plain(length)] * count), 0)
    return [noised["input_ids"][noised["document_ids"] == number] for number in range(1, count + 1)]


def test_documents_are_rearranged_as_often_as_the_rates_say() -> None:
    """Half of them, and of those 30% with the suffix first; within 3 sigma."""
    before = BPE.backend.token_to_id(NAMES[0])
    found = arranged(FimConfig(fim_rate=0.5, spm_rate=0.3), 60, 4000)
    moved = [one for one in found if one[0] == before]
    within_three_sigma(len(moved), len(found), 0.5)
    # With an empty prefix both arrangements are one, and either of two cuts among 58 places makes it so.
    suffix_first = sum(undone(one.tolist(), BPE)[1] == 0 for one in moved)
    within_three_sigma(suffix_first, len(moved), 0.3 + 0.7 * (1 - (57 / 58) ** 2))


def test_both_cuts_are_uniform() -> None:
    """Each of the 8 places of 7 tokens as likely as another, so each pair of them; within 3 sigma."""
    pairs = np.zeros((8, 8), dtype=int)
    config = FimConfig(fim_rate=1.0, spm_rate=0.0, min_document_length=4)
    for one in arranged(config, 10, 6000):
        _, prefix, middle = undone(one.tolist(), BPE)
        pairs[prefix, prefix + middle] += 1
    for low in range(8):
        for high in range(8):
            chance = 0.0 if high < low else 1 / 64 if high == low else 2 / 64
            assert abs(pairs[low, high] - 6000 * chance) <= 3 * math.sqrt(6000 * chance * (1 - chance))


def within_three_sigma(count: float, trials: int, probability: float) -> None:
    assert abs(count - trials * probability) < 3 * math.sqrt(trials * probability * (1 - probability))


def test_the_suffix_first_has_the_prefix_before_the_middle() -> None:
    """Variant 2 of the paper's appendix D: <PRE> <SUF> suffix <MID> prefix middle."""
    before, middle, after = (BPE.backend.token_to_id(name) for name in NAMES)
    for one in arranged(FimConfig(fim_rate=1.0, spm_rate=1.0), 40, 50):
        assert one[:2].tolist() == [before, after]
        cut = one.tolist().index(middle)
        assert np.array_equal(np.concatenate([one[cut + 1 :], one[2:cut]]), plain(40)[:-3])


@settings(max_examples=15, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_noise_is_a_function_of_seed_sample_and_document(sample: int, seed: int) -> None:
    config, row = FimConfig(), packed([plain(60)] * 12)
    one, two = (config.build(BPE, seed).apply(row, sample)["input_ids"] for _ in range(2))
    assert np.array_equal(one, two)
    for other in (
        config.build(BPE, seed).apply(row, sample + 1),
        config.build(BPE, seed ^ 1).apply(row, sample),
        config.build(BPE, seed).apply(row, sample, Stream.EVALUATION_NOISE),
    ):
        assert not np.array_equal(one, other["input_ids"])
    assert len({tuple(part) for part in one.reshape(12, 60)}) > 1


@settings(max_examples=30, deadline=None)
@given(data=st.data(), sample=st.integers(0, 2**40))
def test_a_document_changes_nothing_of_its_neighbours(data: st.DataObject, sample: int) -> None:
    parts = data.draw(rows(BPE))
    changed = data.draw(st.integers(0, len(parts) - 1))
    (other,) = data.draw(rows(BPE, most=1))
    objective = FimConfig(fim_rate=0.9).build(BPE, 1)
    before = objective.apply(packed(parts), sample)
    after = objective.apply(packed([*parts[:changed], other, *parts[changed + 1 :]]), sample)
    for number in set(range(1, len(parts) + 1)) - {changed + 1}:
        for key in before:
            one, two = (noised[key][noised["document_ids"] == number] for noised in (before, after))
            assert np.array_equal(one, two)


def test_special_tokens_that_are_lacking_are_named_early_and_late() -> None:
    tokenizer = BpeConfig(vocab_size=600, special_tokens=("<fim_prefix>",))
    (problem,) = FimConfig().misfits(tokenizer, 128)
    assert str(problem) == (
        "tokenizer.special_tokens: objective fim needs <fim_middle>, <fim_suffix>; "
        "add ['<fim_middle>', '<fim_suffix>']"
    )
    with pytest.raises(
        TokenizerError, match=r"objective fim: the tokenizer has no special token <fim_middle>"
    ):
        FimConfig().build(tokenizer.build(TEXT), 1)
    (problem,) = FimConfig(suffix_token="<fim_prefix>").misfits(tokenizer, 128)
    assert problem.key == "objective.prefix_token"
    assert not list(FimConfig().misfits(BpeConfig(special_tokens=NAMES), 128))
