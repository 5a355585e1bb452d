"""Learning-rate schedules against their formulas."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbre.optim import (
    ConstantConfig,
    CosineConfig,
    InverseSquareRootConfig,
    LinearConfig,
    ScheduleConfig,
    WsdConfig,
)

MEMBERS = [ScheduleConfig.members[name] for name in sorted(ScheduleConfig.members)]


@pytest.mark.parametrize("kind", MEMBERS)
@given(steps=st.integers(1, 10_000), warmup=st.floats(0, 1), final=st.floats(0, 1))
def test_the_factor_rises_to_the_peak_and_ends_at_its_final_value(
    kind: type[ScheduleConfig], steps: int, warmup: float, final: float
) -> None:
    schedule = kind(warmup=warmup, final_factor=final)
    for step in (1, steps // 2 or 1, steps):
        assert 0.0 <= schedule.factor(step, steps) <= 1.0 + 1e-12
    if warmup < 1.0 and steps > warmup * steps:
        end = {
            ConstantConfig: 1.0,
            InverseSquareRootConfig: max(final, math.sqrt(max(1.0, warmup * steps) / steps)),
        }.get(kind, final)
        assert schedule.factor(steps, steps) == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize("kind", MEMBERS)
@given(steps=st.integers(1, 300), warmup=st.floats(0, 0.9), final=st.floats(0, 1))
def test_the_rate_rises_in_a_line_and_never_again(
    kind: type[ScheduleConfig], steps: int, warmup: float, final: float
) -> None:
    schedule = kind(warmup=warmup, final_factor=final)
    rates = [schedule.factor(step, steps) for step in range(1, steps + 1)]
    rising = [step for step in range(1, steps + 1) if step < warmup * steps]
    assert rates[: len(rising)] == pytest.approx([step / (warmup * steps) for step in rising])
    rest = rates[len(rising) :]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rest))


def test_the_shapes_are_their_formulas() -> None:
    cosine = CosineConfig(warmup=0.1, final_factor=0.2)
    assert cosine.factor(5, 100) == pytest.approx(0.5)
    assert cosine.factor(55, 100) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert LinearConfig(warmup=0.1).factor(55, 100) == pytest.approx(1 - 45 / 90)
    assert ConstantConfig(warmup=0.1).factor(99, 100) == 1.0


@given(st.integers(1, 4000), st.integers(1, 400))
def test_the_inverse_square_root_is_that_of_attention_is_all_you_need(step: int, warmup_steps: int) -> None:
    """Their d^-0.5 min(s^-0.5, s w^-1.5), as a share of its peak at s = w."""
    peak = warmup_steps**-0.5
    expected = min(step**-0.5, step * warmup_steps**-1.5) / peak
    factor = InverseSquareRootConfig(warmup=warmup_steps / 4000).factor(step, 4000)
    assert factor == pytest.approx(expected, rel=1e-9)


def test_the_inverse_square_root_stops_at_its_least_rate() -> None:
    schedule = InverseSquareRootConfig(warmup=0.01, final_factor=0.25)
    assert schedule.factor(10, 1000) == 1.0
    assert schedule.factor(40, 1000) == pytest.approx(0.5)
    assert schedule.factor(1000, 1000) == 0.25


@pytest.mark.parametrize("shape", ["linear", "one_minus_sqrt"])
def test_wsd_warms_up_stays_and_decays(shape: str) -> None:
    """10 steps up, 70 at the peak, 20 down to a tenth."""
    schedule = WsdConfig.model_validate(
        {"warmup": 0.1, "decay": 0.2, "final_factor": 0.1, "decay_shape": shape}
    )
    assert [schedule.factor(step, 100) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert [schedule.factor(step, 100) for step in range(10, 81)] == pytest.approx([1.0] * 71)
    for step in range(80, 101):
        gone = (step - 80) / 20
        fall = gone if shape == "linear" else math.sqrt(gone)
        assert schedule.factor(step, 100) == pytest.approx(0.1 + 0.9 * (1 - fall), abs=1e-7)


def test_a_stage_of_wsd_that_stays_is_the_same_for_any_number_of_steps() -> None:
    """What makes it worth having: the run may be made longer from a checkpoint before the decay."""
    short = WsdConfig(warmup=0.02, decay=0.1)
    long = WsdConfig(warmup=0.01, decay=0.05)
    assert [short.factor(step, 1000) for step in range(1, 901)] == pytest.approx(
        [long.factor(step, 2000) for step in range(1, 901)]
    )


def test_a_decay_that_begins_in_the_warm_up_is_refused() -> None:
    (problem,) = WsdConfig(warmup=0.5, decay=0.6).problems()
    assert str(problem).startswith("decay: 0.6 and a warm-up of 0.5 are more than the whole run; use at most")
    assert not list(WsdConfig(warmup=0.5, decay=0.5).problems())
