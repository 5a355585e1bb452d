"""The points of the curves: long lines are thinned, and no extreme is hidden."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.report.series import MOST_BUCKETS, line_of


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(2 * MOST_BUCKETS + 1, 20_000), st.floats(0.0, 0.01))
def test_a_thinned_line_keeps_every_extreme_and_both_ends(seed, length, lost):
    noise = np.random.default_rng(seed)
    steps = np.arange(1.0, length + 1)
    values = noise.standard_cauchy(length).round(2)
    values[noise.random(length) < lost] = np.nan
    line = line_of(steps, values)
    assert len(line["x"]) == len(line["y"]) <= 3 * MOST_BUCKETS + 2
    assert (line["x"][0], line["x"][-1]) == (1, length)
    assert line["x"] == sorted(set(line["x"]))
    shown = dict(zip(line["x"], line["y"], strict=True))
    for stretch in np.array_split(steps.astype(int), 2):
        own = values[stretch - 1]
        drawn = np.array([shown[step] for step in stretch if shown.get(step) is not None])
        np.testing.assert_allclose([drawn.min(), drawn.max()], [np.nanmin(own), np.nanmax(own)], rtol=1e-5)
    assert (None in line["y"]) == bool(np.isnan(values).any())


def test_a_short_line_is_whole():
    steps = np.arange(2.0 * MOST_BUCKETS)
    assert line_of(steps, steps)["y"] == steps.tolist()


def test_the_smooth_line_of_a_thinned_one_is_made_of_means():
    """Of 10 values a stretch, 0 to 9: the least and the greatest are drawn, and 4.5 is smoothed."""
    steps = np.arange(10.0 * MOST_BUCKETS)
    line = line_of(steps, steps % 10)
    assert line["mean_y"] == [4.5] * MOST_BUCKETS
    assert line["mean_x"][:2] == [4.5, 14.5]
    assert line["y"] == [0, 9] * MOST_BUCKETS
