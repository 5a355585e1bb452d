"""Batches of training rows: which global batch is told by seed and epoch, how it is dealt by length."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.batches import EpochBatches, even_groups

LENGTHS = np.random.default_rng(7).integers(1, 40, 22)
ROWS = [
    {"at": np.asarray([number]), "ids": np.zeros(length, int)}
    for number, length in enumerate(LENGTHS.tolist())
]
GLOBAL, STEPS = 8, 9


class Numbers:
    """Collates rows to their numbers."""

    def __init__(self, unit: int = 1) -> None:
        self.unit = unit

    def length(self, row: dict[str, np.ndarray]) -> int:
        return len(row["ids"])

    def collate(self, rows: list[dict[str, np.ndarray]]) -> list[int]:
        return [int(row["at"][0]) for row in rows]


def batches(seed: int = 1, micro: int = 8, start: int = 0, unit: int = 1) -> EpochBatches:
    """Return batches of the rows."""
    task: Any = Numbers(unit)
    return EpochBatches(task, ROWS, seed, GLOBAL, micro, start)


def steps(count: int = STEPS, **keys: int) -> list[list[list[int]]]:
    """Return this rank's micro batches of each step."""
    found: Any = [step for step, _ in zip(batches(**keys), range(count), strict=False)]
    return found


def chosen(**keys: int) -> list[list[int]]:
    """Return the rows of each step of one process, sorted."""
    return [sorted(number for micro in step for number in micro) for step in steps(**keys)]


def test_each_epoch_holds_every_row_once_in_an_order_of_its_own() -> None:
    all_at_once: Any = Numbers()
    epochs = EpochBatches(all_at_once, ROWS, 1, 22, 1, 0)
    orders = [[epochs.sample(epoch * 22 + at) for at in range(22)] for epoch in range(3)]
    assert [sorted(order) for order in orders] == [list(range(22))] * 3
    assert len({*map(tuple, orders), tuple(range(22))}) == 4


def test_the_order_is_a_function_of_the_seed_alone() -> None:
    np.random.default_rng(0).random(3)
    assert steps(seed=4) == steps(seed=4)
    assert chosen(seed=4) != chosen(seed=5)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_layout_does_not_change_the_global_batches(
    monkeypatch: pytest.MonkeyPatch, world: int, micro: int
) -> None:
    """Every step holds the same rows over all ranks and micro batches, and ranks take as many (law 2)."""
    alone = chosen()
    monkeypatch.setenv("WORLD_SIZE", str(world))
    over_ranks = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        over_ranks.append(steps(micro=micro))
        assert all(len(step) == GLOBAL // micro // world for step in over_ranks[-1])
    for at, whole in enumerate(alone):
        assert sorted(number for mine in over_ranks for part in mine[at] for number in part) == whole


@pytest.mark.parametrize("start", range(1, STEPS))
def test_a_start_anywhere_goes_on_as_the_unbroken_stream(start: int) -> None:
    """No state: step s takes the samples that arithmetic gives it (law 1)."""
    assert steps(start=start, count=STEPS - start) == steps()[start:]


def test_a_unit_is_never_split() -> None:
    """In-batch negatives are fixed groups of consecutive samples."""
    by_units = batches(micro=2, unit=2)
    for step in range(STEPS):
        pairs = {
            frozenset(by_units.sample(step * GLOBAL + at + one) for one in (0, 1))
            for at in range(0, GLOBAL, 2)
        }
        for group in by_units.groups(step):
            found = {frozenset(group[at : at + 2]) for at in range(0, len(group), 2)}
            assert found <= pairs


@given(
    st.integers(1, 12).flatmap(
        lambda number: st.tuples(
            st.just(number), st.lists(st.integers(1, 500), min_size=number, max_size=number * 7)
        )
    )
)
def test_groups_hold_every_row_once_and_none_is_larger_than_an_even_share_of_the_longest(
    drawn: tuple[int, list[int]],
) -> None:
    number, lengths = drawn
    groups = even_groups(np.array(lengths), number)
    assert len(groups) == number
    assert all(groups)
    assert sorted(at for group in groups for at in group) == list(range(len(lengths)))
    share = -(-len(lengths) // number)
    assert all(len(group) * max(lengths[at] for at in group) <= share * max(lengths) for group in groups)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 9))
def test_no_cut_of_the_sorted_rows_makes_the_largest_group_smaller(lengths: list[int], number: int) -> None:
    """Held against every cut into so many spans at most."""
    number = min(number, len(lengths))
    falling = sorted(lengths, reverse=True)
    cuts = (
        [0, *inner, len(falling)]
        for count in range(number)
        for inner in combinations(range(1, len(falling)), count)
    )
    best = min(max((stop - start) * falling[start] for start, stop in pairwise(cut)) for cut in cuts)
    groups = even_groups(np.array(lengths), number)
    assert max(len(group) * max(lengths[at] for at in group) for group in groups) == best


def test_like_lengths_together_waste_less() -> None:
    padding = batches(micro=2).padding(STEPS)
    assert padding.tokens < padding.bucketed < padding.in_order
    bucketed, in_order = (1 - padding.tokens / padded for padded in (padding.bucketed, padding.in_order))
    told = f"padding: {bucketed:.0%} of the tokens computed ({in_order:.0%} without length buckets)"
    assert padding.told(unpadded=False) == told
    assert (
        padding.told(unpadded=True)
        == f"padding: none is computed ({in_order:.0%} of a padded batch would be)"
    )


def test_the_padding_is_that_of_the_micro_batches() -> None:
    made = batches(micro=4)
    padding = made.padding(2)
    groups = [group for step in range(2) for group in made.groups(step)]
    assert padding.bucketed == sum(len(group) * max(LENGTHS[at] for at in group) for group in groups)
    assert padding.tokens == sum(LENGTHS[at] for group in groups for at in group)
