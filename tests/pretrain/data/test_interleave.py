"""Mixtures are exact to within one sample at every prefix, from a table that is computed, not stored."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.data.interleave import LONGEST_PERIOD, Interleave, parts_of

WEIGHTS = st.lists(st.integers(0, 400), min_size=1, max_size=8).filter(any)


@settings(deadline=None, max_examples=150)
@given(WEIGHTS)
@example([1, 1, 1])
@example([1, 399])
@example([7, 0, 2, 2, 2, 2, 2, 2])
def test_every_prefix_has_each_source_to_within_one_sample(weights):
    mixture = Interleave(weights)
    turns = 2 * mixture.period + 3
    sources = np.array([mixture(k)[0] for k in range(turns)])
    for source, weight in enumerate(weights):
        exact = np.arange(turns + 1) * weight / sum(weights)
        taken = np.concatenate([[0], np.cumsum(sources == source)])
        assert np.abs(taken - exact).max() < 1 - 1e-9 or not weight
        assert weight or not taken[-1]
        assert [mixture.taken(source, k) for k in range(turns + 1)] == taken.tolist()


@settings(deadline=None, max_examples=60)
@given(WEIGHTS, st.integers(0, 10**15))
def test_a_sample_of_a_source_is_found_where_it_stands(weights, k):
    mixture = Interleave(weights)
    source, nth = mixture(k)
    assert mixture.where(source, nth) == k
    assert mixture.taken(source, k) == nth
    assert mixture.taken(source, k + 1) == nth + 1


def test_decimal_weights_are_exact_and_their_scale_does_not_matter():
    assert Interleave([0.7, 0.2, 0.1]).shares == (Fraction(7, 10), Fraction(1, 5), Fraction(1, 10))
    assert parts_of((70.0, 20.0, 10.0)) == parts_of((0.7, 0.2, 0.1)) == (7, 2, 1)
    assert parts_of((2.5,)) == (1,)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(1e-9, 1e6), min_size=2, max_size=6))
@example([1 / 3, 2 / 3])
@example([1e-9, 1.0])
def test_weights_of_too_many_digits_are_rounded_and_none_is_lost(weights):
    parts = parts_of(tuple(weights))
    assert sum(parts) <= LONGEST_PERIOD
    assert min(parts) >= 1
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part / sum(parts) - weight / sum(weights)) <= len(parts) / LONGEST_PERIOD


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], []])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Interleave(weights)


def test_the_table_never_changes_between_releases():
    assert [Interleave([5, 3, 2])(k)[0] for k in range(10)] == [0, 1, 0, 2, 0, 1, 0, 1, 0, 2]
