"""The order of training examples: a function of seed and epoch, whatever the layout."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from finetune.batches import EpochBatches

ROWS = [{"at": np.asarray([number])} for number in range(22)]
GLOBAL, STEPS = 8, 9


class Numbers:
    """Collates rows to their numbers."""

    def collate(self, rows: list[dict[str, np.ndarray]]) -> list[int]:
        return [int(row["at"][0]) for row in rows]


def steps(seed: int = 1, micro: int = 8, start: int = 0, count: int = STEPS) -> Iterator[list[list[int]]]:
    """Return this rank's micro batches of each step."""
    task: Any = Numbers()
    batches: Any = EpochBatches(task, ROWS, seed, GLOBAL, micro, start)
    return islice(iter(batches), count)


def samples(**keys: int) -> list[int]:
    """Return the samples of one process in order."""
    return [number for step in steps(**keys) for micro in step for number in micro]


def test_each_epoch_holds_every_example_once_in_an_order_of_its_own() -> None:
    stream = samples()
    first, second, third = (stream[at : at + 22] for at in (0, 22, 44))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(22))
    assert len({tuple(first), tuple(second), tuple(third), tuple(range(22))}) == 4


def test_the_order_is_a_function_of_the_seed_alone() -> None:
    np.random.default_rng(0).random(3)
    assert samples(seed=4) == samples(seed=4)
    assert samples(seed=4) != samples(seed=5)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_layout_does_not_change_the_global_batches(
    monkeypatch: pytest.MonkeyPatch, world: int, micro: int
) -> None:
    """Every step holds the same examples in the same places over all ranks and micro batches (law 2)."""
    alone = [step[0] for step in steps()]
    monkeypatch.setenv("WORLD_SIZE", str(world))
    over_ranks = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        over_ranks.append(list(steps(micro=micro)))
        assert all(len(one) == micro for step in over_ranks[-1] for one in step)
    for at, whole in enumerate(alone):
        assert [number for mine in over_ranks for part in mine[at] for number in part] == whole


@pytest.mark.parametrize("start", range(1, STEPS))
def test_a_start_anywhere_goes_on_as_the_unbroken_stream(start: int) -> None:
    """No state: step s takes the samples that arithmetic gives it (law 1)."""
    assert samples(start=start, count=STEPS - start) == samples()[start * GLOBAL :]
