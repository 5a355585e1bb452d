"""Learning-rate schedules against their formulas."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbre.optim import ConstantConfig, CosineConfig, LinearConfig, ScheduleConfig

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
        end = 1.0 if kind is ConstantConfig else final
        assert schedule.factor(steps, steps) == pytest.approx(end)


def test_the_shapes_are_their_formulas() -> None:
    cosine = CosineConfig(warmup=0.1, final_factor=0.2)
    assert cosine.factor(5, 100) == pytest.approx(0.5)
    assert cosine.factor(55, 100) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert LinearConfig(warmup=0.1).factor(55, 100) == pytest.approx(1 - 45 / 90)
    assert ConstantConfig(warmup=0.1).factor(99, 100) == 1.0
