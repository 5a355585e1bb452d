"""Counter-based random numbers: a pure function of seed and counters, on any layout (law 1)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbre import distributed
from lumbre.distributed import random

word = st.integers(0, 2**64 - 1)


@given(seed=word, counters=st.lists(word, max_size=3))
def test_draws_are_a_pure_function_of_seed_and_counters(seed: int, counters: list[int]) -> None:
    one, two = random(seed, *counters), random(seed, *counters)
    assert np.array_equal(one.random(64), two.random(64))


@given(seed=word, left=st.tuples(word, word), right=st.tuples(word, word))
def test_other_counters_draw_other_numbers(seed: int, left: tuple[int, int], right: tuple[int, int]) -> None:
    same = np.array_equal(random(seed, *left).random(16), random(seed, *right).random(16))
    assert same == (left == right)


def test_neighbouring_samples_do_not_overlap() -> None:
    """Sample k's numbers do not begin again in sample k + 1's, however many are drawn."""
    many = set(random(1, 1, 7).random(200_000).tolist())
    assert not many & set(random(1, 1, 8).random(1000).tolist())


def test_more_counters_than_philox_has_words_are_refused() -> None:
    with pytest.raises(ValueError, match="at most three"):
        random(1, 2, 3, 4, 5)


@given(seed=word, counters=st.lists(word, max_size=4), other=st.lists(word, max_size=4))
def test_a_word_is_a_pure_function_of_seed_and_counters(
    seed: int, counters: list[int], other: list[int]
) -> None:
    found = distributed.word(seed, *counters)
    assert found == distributed.word(seed, *counters)
    assert 0 <= found < 2**63
    assert (found == distributed.word(seed, *other)) == (counters == other)
