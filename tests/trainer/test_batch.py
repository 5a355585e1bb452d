"""A batch that the ranks cannot share: every number that the error names would fit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbre.trainer import TrainConfig

SIZES = st.integers(1, 40)


def batch(total: int | None, micro: int | None, times: int | None) -> TrainConfig:
    """Return a config of three sizes."""
    return TrainConfig(steps=1, global_batch_size=total, micro_batch_size=micro, accumulation_steps=times)


def fits(config: TrainConfig, ranks: int) -> bool:
    """Return whether so many ranks can share the batch."""
    return not list(config.misfits(ranks, "processes"))


@pytest.mark.parametrize(
    ("sizes", "ranks", "remedy"),
    [
        (
            (8, 2, None),
            3,
            "micro_batch_size x processes = 6 fits, such as 6 or 12; 8 fits with processes = 2 or 4",
        ),
        ((8, 8, None), 2, "= 16 fits, such as 16; 8 fits with micro_batch_size 4, or processes = 1"),
        ((8, 1, None), 16, "= 16 fits, such as 16; 8 fits with processes = 8"),
        ((7, 2, 3), 1, "micro_batch_size x accumulation_steps x processes = 6 fits"),
    ],
)
def test_the_nearest_that_fit_are_named(
    sizes: tuple[int | None, int | None, int | None], ranks: int, remedy: str
) -> None:
    (problem,) = batch(*sizes).misfits(ranks, "processes")
    assert problem.key == "global_batch_size"
    assert problem.remedy.endswith(remedy)


@given(SIZES, st.one_of(st.none(), SIZES), st.one_of(st.none(), SIZES), SIZES)
def test_what_an_error_advises_fits(total: int, micro: int | None, times: int | None, ranks: int) -> None:
    """Each of the numbers named, beside the other keys as they are."""
    config = batch(total, micro, times)
    for problem in config.misfits(ranks, "processes"):
        totals = re.search(r"(?:such as|= (?=\d+ fits$|\d+ fits;)) ?(\d+)(?: or (\d+))?", problem.remedy)
        assert totals is not None
        for one in filter(None, totals.groups()):
            assert fits(batch(int(one), micro, times), ranks)
        for one in re.findall(r"micro_batch_size (\d+)", problem.remedy):
            assert fits(batch(total, int(one), times), ranks)
        counts = re.search(r"with.* processes = (\d+)(?: or (\d+))?$", problem.remedy)
        for one in filter(None, counts.groups()) if counts else ():
            assert fits(config, int(one))
