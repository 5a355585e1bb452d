"""Loss spikes: told once, not in noise, and the same after a resume."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.trainer.spikes import FEWEST, LossSpikes


def noisy(seed: int, steps: int = 400) -> list[float]:
    """A loss that falls, with the noise of small batches."""
    noise = np.random.default_rng(seed).normal(0, 0.15, steps)
    return [2.0 + 4.0 * math.exp(-step / 100) + one for step, one in enumerate(noise)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_noise_is_no_spike(seed):
    spikes = LossSpikes()
    assert not any(spikes.observe(loss) for loss in noisy(seed))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(FEWEST, 399), st.integers(1, 5))
def test_a_jump_is_told_once(seed, at, length):
    losses = noisy(seed)
    losses[at : at + length] = [one + 12.0 for one in losses[at : at + length]]
    spikes = LossSpikes()
    assert [step for step, loss in enumerate(losses) if spikes.observe(loss)] == [at]


def test_a_loss_that_is_none_is_a_spike_and_not_part_of_what_is_usual():
    spikes = LossSpikes([1.0] * FEWEST)
    assert spikes.observe(math.nan)
    assert not spikes.observe(1.05)
    assert all(math.isfinite(one) for one in spikes.state())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 399))
def test_a_resumed_run_tells_the_same(seed, cut):
    losses = noisy(seed)
    losses[300] += 12.0
    whole, first = LossSpikes(), LossSpikes()
    told = [whole.observe(loss) for loss in losses]
    begun = [first.observe(loss) for loss in losses[:cut]]
    second = LossSpikes(first.state())
    if cut != 301:
        assert begun + [second.observe(loss) for loss in losses[cut:]] == told
