"""Pairs of texts: where they are cut, how often they do not belong together, and what a row of them is."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import config as configs
from lumbre.distributed import Stream
from lumbre.errors import ConfigError, Problem, TokenizerError
from lumbre.models import NO_TARGET, TransformerConfig
from lumbre.tokenizer import BpeConfig, Tokenizer, WordPieceConfig
from pretrain.config import PretrainConfig
from pretrain.objectives import NextSentenceConfig, SentenceOrderConfig
from pretrain.objectives.base import Row
from pretrain.objectives.pairs import Pairs
from pretrain.objectives.sentences import Sentences

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
]
TEXT = " . ".join(WORDS) + ' ! ? ( " ) 3 . 5 '
TOKENIZER = WordPieceConfig(vocab_size=512, min_frequency=1).build([TEXT * 20])
STOP = TOKENIZER.backend.token_to_id(".")
UNMASKED: dict[str, Any] = {"mlm": {"mask_probability": 1e-9}}
"""So that the pair can be read."""
KINDS = (NextSentenceConfig, SentenceOrderConfig)


def within_three_sigma(count: int, trials: int, probability: float) -> None:
    """Assert that a binomial count is no more than three standard deviations off."""
    assert abs(count - trials * probability) <= 3 * math.sqrt(trials * probability * (1 - probability))


class Documents:
    """Rows of one length, each with the text of some document: its tokens, which are no special ones."""

    num_windows = 1
    waste = 0.0

    def __init__(self, texts: list[list[int]], length: int, owners: list[int] | None = None) -> None:
        self._texts, self._length = texts, length
        self._owners = owners or list(range(len(texts)))
        self.num_rows = len(texts)

    def row(self, index: int) -> dict[str, np.ndarray]:
        tokens = [TOKENIZER.cls_id, *self._texts[index], TOKENIZER.sep_id][: self._length]
        rest = self._length - len(tokens)
        return {
            "input_ids": np.array([*tokens, *[TOKENIZER.pad_id] * rest], dtype=np.int64),
            "position_ids": np.arange(self._length),
            "document_ids": np.repeat(np.array([1, 0], dtype=np.int32), [len(tokens), rest]),
        }

    def document(self, index: int) -> int:
        return self._owners[index]


def words(*names: str) -> list[int]:
    return [TOKENIZER.backend.token_to_id(name) for name in names]


def story(word: str, sentences: int, length: int = 3) -> list[int]:
    """Return sentences of one word, so that a token tells its document."""
    return words(*[word] * length, ".") * sentences


def build(kind: Any, **keys: Any) -> Pairs:
    objective: Pairs = kind.model_validate({**UNMASKED, "short_probability": 0.0, **keys}).build(TOKENIZER, 5)
    return objective


def read(row: Row) -> tuple[list[int], list[int], int]:
    """Return the two texts and the label of a row, whose form is checked."""
    kept = row["document_ids"] != 0
    tokens, types = row["input_ids"][kept].tolist(), row["token_type_ids"]
    assert kept[: len(tokens)].all()
    assert tokens[0] == TOKENIZER.cls_id
    assert tokens[-1] == TOKENIZER.sep_id
    middle = tokens.index(TOKENIZER.sep_id)
    assert tokens.count(TOKENIZER.sep_id) == 2
    assert types.tolist() == [0] * (middle + 1) + [1] * (len(tokens) - middle - 1) + [0] * int((~kept).sum())
    assert row["position_ids"][kept].tolist() == list(range(len(tokens)))
    assert (row["input_ids"][~kept] == TOKENIZER.pad_id).all()
    assert (row["labels"] == NO_TARGET).all()
    return tokens[1:middle], tokens[middle + 1 : -1], int(row["pair_labels"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_pairs_hold_the_texts_that_they_say(kind: Any, data: st.DataObject) -> None:
    """Label 0 restores the text but for what is cut off for want of room; 1 is swapped, or another's."""
    length = data.draw(st.integers(8, 40))
    ordinary = sorted(set(range(TOKENIZER.vocab_size)) - TOKENIZER.special_ids)
    text = data.draw(st.lists(st.sampled_from([*ordinary, STOP, STOP]), max_size=length - 1))
    other = data.draw(st.lists(st.sampled_from(ordinary), min_size=1, max_size=length - 2))
    rows = Documents([text, other], length)
    sample = data.draw(st.integers(0, 2**40))
    first, second, label = read(build(kind).sample(rows, 0, sample))
    assert len(first) + len(second) <= length - 3
    if label == NO_TARGET:
        assert (first, second) == (text, [])
    elif label == 0 or kind is SentenceOrderConfig:
        early, late = (first, second) if label == 0 else (second, first)
        assert contains(text, early)
        assert contains(text, late)
        if len(text) <= length - 3:
            assert early + late == text
        if len(text) > 1:
            assert first
            assert second
    else:
        assert contains(text, first)
        assert contains(other, second)
        assert second


def contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_pairs_do_not_belong_together_and_each_cut_is_as_likely(kind: Any) -> None:
    rows = Documents([story(word, 5) for word in WORDS], 40)
    objective, trials = build(kind), 4000
    wrong, cuts = 0, np.zeros(5, dtype=int)
    for sample in range(trials):
        first, second, label = read(objective.sample(rows, sample % len(WORDS), sample))
        wrong += label
        early = second if label and kind is SentenceOrderConfig else first
        assert len(early) % 4 == 0
        cuts[len(early) // 4] += 1
    within_three_sigma(wrong, trials, 0.5)
    assert cuts[0] == 0
    for count in cuts[1:]:
        within_three_sigma(int(count), trials, 0.25)


def test_a_random_second_text_is_of_another_document_each_as_likely_and_as_long() -> None:
    """It is whole sentences, no more of them than what it stands for has."""
    owners = [0, 0, 1, 2, 3]
    rows = Documents([story(word, 6) for word in WORDS[:5]], 64, owners)
    objective = build(NextSentenceConfig)
    seen = np.zeros(5, dtype=int)
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for sample in range(3000):
        first, second, label = read(objective.sample(rows, 0, sample))
        assert set(first) == {words(WORDS[0])[0], STOP}
        assert second[-1] == STOP
        assert len(second) % 4 == 0
        lengths[label].append(len(second))
        if label:
            (word,) = set(second) - {STOP}
            seen[words(*WORDS[:5]).index(word)] += 1
            assert len(second) <= 24 - len(first)
    assert seen[:2].sum() == 0
    for count in seen[2:]:
        within_three_sigma(int(count), int(seen.sum()), 1 / 3)
    assert set(lengths[1]) == set(lengths[0])


def test_without_another_document_the_second_text_stays() -> None:
    rows = Documents([story("alpha", 4), story("beta", 4)], 40, [3, 3])
    objective = build(NextSentenceConfig)
    assert {read(objective.sample(rows, 0, sample))[2] for sample in range(50)} == {0}
    alone = Documents([words("alpha"), []], 40, [3, 3])
    assert read(objective.sample(alone, 0, 0)) == (words("alpha"), [], NO_TARGET)


def test_a_text_too_short_to_cut_gets_another_documents() -> None:
    rows = Documents([words("alpha"), *[story("beta", 4)] * 20, []], 24)
    objective = build(NextSentenceConfig)
    for sample in range(20):
        first, second, label = read(objective.sample(rows, 0, sample))
        assert (first, label) == (words("alpha"), 1)
        assert second
        assert len(second) % 4 == 0
        assert read(objective.sample(rows, 21, sample))[0] == []


def test_what_does_not_fit_is_taken_off_the_longer_text_at_either_end() -> None:
    """Where no sentence ends the cut is anywhere, and the ends of the whole lose as much."""
    table = Sentences(TOKENIZER)
    ordinary = sorted(set(range(TOKENIZER.vocab_size)) - TOKENIZER.special_ids)
    text = [one for one in ordinary if not len(table.ends(np.array([one, ordinary[-1]])))][:20]
    objective, fronts, backs = build(SentenceOrderConfig), 0, 0
    for sample in range(800):
        first, second, label = read(objective.apply(Documents([text], len(text)).row(0), sample))
        early, late = (second, first) if label else (first, second)
        assert len(early) + len(late) == len(text) - 3
        fronts += text.index(early[0])
        backs += len(text) - 2 - text.index(late[-1])
    within_three_sigma(fronts, fronts + backs, 0.5)


def test_some_samples_are_cut_to_a_random_length() -> None:
    rows = Documents([story(word, 12, 1) for word in WORDS], 64)
    objective, trials = build(SentenceOrderConfig, short_probability=0.25), 2000
    lengths = [
        sum(map(len, read(objective.sample(rows, sample % len(WORDS), sample))[:2]))
        for sample in range(trials)
    ]
    # Lengths are drawn from 2 to 61, and every sentence is 2 tokens of 24: of them 22 lengths cut something.
    within_three_sigma(sum(length < 24 for length in lengths), trials, 0.25 * 21 / 60)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_pairs_are_a_function_of_seed_and_sample(kind: Any, sample: int, seed: int) -> None:
    rows = Documents([story(word, 12, 1) for word in WORDS], 64)

    def made(at: int = sample, key: int = seed, stream: Stream = Stream.NOISE) -> Row:
        return kind().build(TOKENIZER, key).sample(rows, 3, at, stream)  # type: ignore[no-any-return]

    one, two = made(), made()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    for other in (made(at=sample + 1), made(key=seed ^ 1), made(stream=Stream.EVALUATION_NOISE)):
        assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_pairs_are_masked_as_rows_are() -> None:
    rows = Documents([story(word, 10) for word in WORDS], 64)
    objective = build(NextSentenceConfig, mlm={})
    ordinary = targets = 0
    for sample in range(500):
        row = objective.sample(rows, sample % len(WORDS), sample)
        special = np.isin(
            np.where(row["labels"] < 0, row["input_ids"], 0), [TOKENIZER.cls_id, TOKENIZER.sep_id]
        )
        assert special.sum() == 3
        ordinary += int((row["document_ids"] != 0).sum()) - 3
        targets += int((row["labels"] != NO_TARGET).sum())
    within_three_sigma(targets, ordinary, 0.15)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("alpha beta . gamma", [3]),
        ("alpha . . . beta ! ? gamma .", [4, 7]),
        ('alpha . " ) beta ( gamma ) delta', [4]),
        (". alpha", [1]),
        ("alpha beta", []),
        ("", []),
    ],
)
def test_sentences_end_behind_what_closes_them(text: str, ends: list[int]) -> None:
    assert Sentences(TOKENIZER).ends(np.array(words(*text.split()), dtype=np.int64)).tolist() == ends


def test_byte_level_tokenizers_have_ends_of_sentences_too() -> None:
    text = "One thing. Another thing!\n\nA third: 日本。それ"
    tokenizer = BpeConfig(vocab_size=600, min_frequency=2).build([text * 50])
    tokens = tokenizer.backend.encode(text, add_special_tokens=False).ids
    table = Sentences(tokenizer)
    pieces = np.split(np.array(tokens), table.ends(np.array(tokens)))
    found = [tokenizer.decode(piece) for piece in pieces]
    assert "".join(found) == text
    assert [piece.strip()[-1] for piece in found[:2]] == [".", "!"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_pair_needs_is_told_early(kind: Any) -> None:
    config = kind()
    assert not list(config.misfits(WordPieceConfig(), 128))
    problems = [*config.misfits(BpeConfig(), 128), *config.misfits(WordPieceConfig(), 4)]
    assert [(one.key, bool(one.remedy)) for one in problems] == [
        ("tokenizer.type", True),
        ("data.seq_length", True),
    ]
    assert "[CLS], [SEP], [MASK]" in problems[0].fault
    model = TransformerConfig.model_validate(
        {"causal": False, "hidden_size": 8, "num_layers": 1, "num_heads": 1, "position": {"type": "rotary"}}
    )
    (problem,) = config.model_misfits(model)
    assert isinstance(problem, Problem)
    assert (problem.key, problem.remedy) == ("model.token_types", "use 2")
    assert not list(config.model_misfits(model.model_copy(update={"token_types": 2})))
    tokenizer: Tokenizer = BpeConfig(vocab_size=512).build([TEXT])
    with pytest.raises(TokenizerError, match=r"no \[CLS\] or no \[SEP\]"):
        config.build(tokenizer, 0)


def test_a_config_is_told_of_rows_and_models_that_hold_no_pairs() -> None:
    keys = [
        "data.packing={type: concatenate}",
        "model=gpt-mini",
        "model.causal=false",
        "tokenizer={type: bpe}",
    ]
    with pytest.raises(ConfigError) as caught:
        configs.load(PretrainConfig, "configs/pretrain/bert-nsp-mini.yaml", keys, room="pretrain")
    told = [(problem.key, problem.remedy) for problem in caught.value.problems]
    assert told == [
        ("tokenizer.type", "use wordpiece"),
        ("data.packing.type", "use pad"),
        ("model.token_types", "use 2"),
    ]
