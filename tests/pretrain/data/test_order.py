"""The global order is a pure function and visits every row once an epoch."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.data.order import GlobalOrder, Permutation

SEEDS = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), SEEDS, st.lists(st.integers(0, 2**40), max_size=3))
@example(1, 0, [])
@example(2, 0, [])
def test_every_size_is_permuted_onto_itself(size, seed, counters):
    permutation = Permutation(size, seed, *counters)
    there = [permutation(index) for index in range(size)]
    assert sorted(there) == list(range(size))
    assert [permutation.inverse(index) for index in there] == list(range(size))
    assert permutation.many(np.arange(size)).tolist() == there


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 2**63), SEEDS)
@example(None, 2**63, 7)
def test_there_and_back_for_any_size(data, size, seed):
    permutation = Permutation(size, seed)
    index = size - 1 if data is None else data.draw(st.integers(0, size - 1))
    assert permutation.inverse(permutation(index)) == index
    assert 0 <= permutation(index) < size
    assert permutation.many(np.array([index])).tolist() == [permutation(index)]


@pytest.mark.parametrize("size", [0, -1, 2**63 + 1])
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match="size is"):
        Permutation(size, 0)


def test_seeds_and_counters_give_unrelated_orders():
    size = 1000
    orders = [Permutation(size, *key).many(np.arange(size)) for key in [(0,), (1,), (0, 0), (0, 1), (1, 0)]]
    for one in range(len(orders)):
        for other in range(one):
            assert np.mean(orders[one] == orders[other]) < 0.02
            assert abs(np.corrcoef(orders[one], orders[other])[0, 1]) < 0.2


@pytest.mark.parametrize("size", [3, 10, 100])
def test_every_place_is_as_likely(size):
    """Chi-square of where the first element goes over many seeds stays within 6 standard deviations."""
    draws = 200 * size
    counts = np.bincount([Permutation(size, seed)(0) for seed in range(draws)], minlength=size)
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi_square - (size - 1)) < 6 * np.sqrt(2 * size)


def test_the_stream_visits_every_row_once_an_epoch_and_each_epoch_differs():
    order = GlobalOrder(50, seed=3)
    stream = [order(sample) for sample in range(150)]
    assert [epoch for epoch, _ in stream] == [0] * 50 + [1] * 50 + [2] * 50
    epochs = [[row for _, row in stream[start : start + 50]] for start in (0, 50, 100)]
    assert all(sorted(rows) == list(range(50)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_sample_is_a_pure_function_of_seed_and_index():
    far = 10**15
    assert GlobalOrder(12345, seed=1)(far) == GlobalOrder(12345, seed=1)(far)
    backwards = GlobalOrder(77, seed=5)
    last = [backwards(sample) for sample in reversed(range(200))][::-1]
    assert last == [GlobalOrder(77, seed=5)(sample) for sample in range(200)]


def test_the_order_never_changes_between_releases():
    """A run that resumes with a newer Lumbre sees the same samples."""
    order = GlobalOrder(1_000_003, seed=42)
    assert [order(sample)[1] for sample in (0, 1, 2, 1_000_003)] == [87105, 525313, 702236, 184453]
