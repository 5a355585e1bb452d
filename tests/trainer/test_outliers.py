"""Documents that stand out of the losses that are usual, and what must not be taken for such."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.trainer.outliers import FEWEST, Pieces, UsualLosses, _usual, pieces_of

BETWEEN, WITHIN = 0.6, 2.0
"""Standard deviations of what is a document's and a target's own."""


def step(chance: np.random.Generator, center: float = 4.0, pieces: int = 24, sources: int = 1) -> Pieces:
    """Return the pieces of a step as the model of the watch has them."""
    targets = chance.integers(1, 64, pieces)
    sums = np.zeros((pieces, 3))
    for at, count in enumerate(targets.tolist()):
        losses = center + chance.normal(0, BETWEEN) + chance.normal(0, WITHIN, count)
        sums[at] = count, losses.sum(), (losses**2).sum()
    return Pieces(np.arange(pieces), np.ones(pieces, dtype=int), np.arange(pieces) % sources, sums)


def poisoned(pieces: Pieces, at: list[int], loss: float) -> Pieces:
    """Return the step with the loss of some pieces raised to one of 40 targets."""
    sums = pieces.sums_P3.copy()
    sums[at] = 40, 40 * loss, 40 * loss**2
    return Pieces(pieces.sample_P, pieces.number_P, pieces.source_P, sums)


def used(seed: int, steps: int = FEWEST, **keys: Any) -> tuple[UsualLosses, np.random.Generator]:
    """Return a watch that has seen steps."""
    chance = np.random.default_rng(seed)
    usual = UsualLosses(["a", "b"][: keys.get("sources", 1)])
    for _ in range(steps):
        out, _ = usual.standing_out(step(chance, **keys))
        assert not out.any()
        usual.take_up()
    return usual, chance


def test_the_variances_are_those_that_the_losses_were_drawn_with() -> None:
    usual, _ = used(0, steps=64)
    found = _usual(usual._windows[0])
    assert found.center == pytest.approx(4.0, abs=0.1)
    assert found.between == pytest.approx(BETWEEN**2, rel=0.15)
    assert found.within == pytest.approx(WITHIN**2, rel=0.05)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.lists(st.integers(0, 23), min_size=1, max_size=3, unique=True))
def test_poisoned_documents_are_found_and_no_others(seed: int, at: list[int]) -> None:
    usual, chance = used(seed)
    out, some = usual.standing_out(poisoned(step(chance), at, 11.0))
    assert some
    assert np.flatnonzero(out).tolist() == sorted(at)


def test_a_jump_of_all_documents_is_no_documents_fault() -> None:
    usual, chance = used(1)
    out, some = usual.standing_out(step(chance, center=9.0))
    assert some
    assert not out.any()


def test_a_set_is_compared_with_itself_and_a_new_one_with_nothing() -> None:
    """A set that joins late and is harder than the other is no poison."""
    usual, chance = used(2, sources=1)
    later = UsualLosses(["a", "b"])
    later.restore(usual.state())
    mixed = step(chance, sources=2)
    hard = mixed.source_P == 1
    mixed.sums_P3[hard] = poisoned(mixed, list(range(24)), 11.0).sums_P3[hard]
    out, some = later.standing_out(mixed)
    assert not some
    assert not out.any()


def test_a_restored_watch_finds_the_same() -> None:
    usual, chance = used(3)
    other = UsualLosses(["a"])
    other.restore(usual.state())
    fresh = poisoned(step(chance), [4], 9.0)
    assert np.array_equal(usual.standing_out(fresh)[0], other.standing_out(fresh)[0])
    assert other.state() == usual.state()


def test_pieces_are_summed_from_the_targets_of_each_document() -> None:
    """Against a loop over rows and documents."""
    generator = torch.Generator().manual_seed(0)
    documents_BT = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 2, 3, 3, 3], [0, 0, 0, 0, 0, 0]])
    targets_BT = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()
    losses = torch.rand(int(targets_BT.sum()), generator=generator)
    all_BT = torch.zeros(3, 6)
    all_BT[targets_BT] = losses
    names, sums = pieces_of(
        targets_BT, documents_BT, losses, torch.tensor([70, 71, 72]), torch.zeros(3).long()
    )
    expected = {}
    for row in range(3):
        for number in range(1, 4):
            own = all_BT[row][(documents_BT[row] == number) & targets_BT[row]]
            if len(own):
                expected[70 + row, number, 0] = [len(own), float(own.sum()), float(own.square().sum())]
    found = {tuple(name): one for name, one in zip(names.tolist(), sums.tolist(), strict=True)}
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key]) for key in found)
