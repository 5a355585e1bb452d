"""How often to save: Young's and Daly's formula against the cost that they approximate, and the clock."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lumbre.checkpoint import CheckpointConfig, best_interval
from lumbre.trainer.cadence import FIRST_SECONDS, Cadence


def wasted(interval: float, cost: float, between_failures: float) -> float:
    """Return the time that a second of training takes, by the exact cost (Daly, 2006, equation 20)."""
    return between_failures / interval * math.expm1((interval + cost) / between_failures)


@given(cost=st.floats(1e-3, 1e3), ratio=st.floats(1e-6, 0.1))
def test_the_interval_loses_the_least_time(cost: float, ratio: float) -> None:
    """Against the minimum found by search; the cost there differs by less than a ten-thousandth."""
    between = cost / ratio
    found = minimize_scalar(
        lambda x: wasted(math.exp(x), cost, between), bounds=(math.log(cost / 10), math.log(between * 10))
    )
    ours = best_interval(cost, between)
    assert ours == pytest.approx(math.exp(found.x), rel=0.02)
    assert wasted(ours, cost, between) <= found.fun * (1 + 1e-4)


def test_the_interval_is_youngs_where_failures_are_rare() -> None:
    """sqrt(2 d M): 10 s a save and one failure a day, 22 minutes."""
    assert best_interval(10.0, 86_400.0) == pytest.approx(math.sqrt(2 * 10 * 86_400.0), rel=0.01)
    assert best_interval(10.0, 86_400.0) == pytest.approx(1307.9, abs=0.1)


def test_a_save_that_costs_more_than_failures_leave_is_made_once_between_them() -> None:
    assert best_interval(300.0, 100.0) == 100.0
    assert best_interval(200.0, 100.0) == 100.0


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_minutes_are_counted_from_the_last_save() -> None:
    clock = Clock()
    cadence = Cadence(CheckpointConfig(every_minutes=2), clock)
    clock.now = 119.0
    assert not cadence.is_due
    clock.now = 120.0
    assert cadence.is_due
    cadence.began()
    assert not cadence.is_due
    clock.now = 240.0
    assert cadence.is_due


def test_without_minutes_the_clock_does_not_matter() -> None:
    clock = Clock()
    cadence = Cadence(CheckpointConfig(every_steps=3), clock)
    clock.now = 1e9
    assert not cadence.is_due


def test_auto_follows_the_measured_cost() -> None:
    """The pause, and what steps lose beside a save that is being written: here 0.5 s and 2 x 0.75 s."""
    clock = Clock()
    cadence = Cadence(CheckpointConfig(every_minutes="auto", failures_per_day=4), clock)
    clock.now = FIRST_SECONDS
    assert cadence.is_due
    cadence.began()
    for _ in range(9):
        cadence.stepped(1.0, beside_a_save=False)
    for _ in range(2):
        cadence.stepped(1.75, beside_a_save=True)
    cadence.saved(pause=0.5, seconds=3.0)
    assert cadence.cost == 2.0
    assert cadence.interval == best_interval(2.0, 86_400 / 4)


def test_auto_never_saves_before_the_last_save_is_whole() -> None:
    """A cheap pause before a slow disk: the save's own time is the least."""
    cadence = Cadence(CheckpointConfig(every_minutes="auto", failures_per_day=100), Clock())
    cadence.saved(pause=0.001, seconds=90.0)
    assert cadence.interval == 90.0
