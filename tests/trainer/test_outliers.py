"""Documents that stand out of the losses that are usual, and what must not be taken for such."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.trainer.outliers import RECENT, UsualLosses, _usual
from lumbre.trainer.pieces import Pieces, Places

BETWEEN, WITHIN = 0.6, 2.0
"""Standard deviations of what is a document's and a target's own."""


def step(chance: np.random.Generator, center: float = 4.0, pieces: int = 24, sources: int = 1) -> Pieces:
    """Return the pieces of a step as the model of the watch has them."""
    targets = chance.integers(1, 64, pieces)
    sums = np.zeros((pieces, 3))
    for at, count in enumerate(targets.tolist()):
        losses = center + chance.normal(0, BETWEEN) + chance.normal(0, WITHIN, count)
        sums[at] = count, losses.sum(), (losses**2).sum()
    places = Places(np.arange(pieces), np.ones(pieces, dtype=int), np.arange(pieces) % sources, targets)
    return Pieces(places, sums)


def poisoned(pieces: Pieces, at: list[int], loss: float) -> Pieces:
    """Return the step with the loss of some pieces raised to one of 40 targets."""
    sums = pieces.sums_P3.copy()
    sums[at] = 40, 40 * loss, 40 * loss**2
    return Pieces(pieces.places, sums)


def used(seed: int, steps: int = 2 * RECENT, **keys: Any) -> tuple[UsualLosses, np.random.Generator]:
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


def test_a_document_stands_out_of_a_center_that_falls() -> None:
    """Its loss is below what was usual some steps ago, and far above what is usual now."""
    chance = np.random.default_rng(4)
    usual = UsualLosses(["a"])
    for at in range(48):
        assert not usual.standing_out(step(chance, center=9.0 - at / 8))[0].any()
        usual.take_up()
    out, _ = usual.standing_out(poisoned(step(chance, center=3.0), [5], 8.5))
    assert np.flatnonzero(out).tolist() == [5]


def test_a_set_is_compared_with_itself_and_a_new_one_with_nothing() -> None:
    """A set that joins late and is harder than the other is no poison."""
    usual, chance = used(2, sources=1)
    later = UsualLosses(["a", "b"])
    later.restore(usual.state())
    mixed = step(chance, sources=2)
    hard = mixed.places.source_P == 1
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


def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return which tokens are targets, the documents of rows, and each token's loss."""
    lengths = torch.randint(1, 9, (5, 12), generator=generator)
    documents_BT = torch.stack([torch.arange(1, 13).repeat_interleave(row)[:24] for row in lengths + 1]).int()
    documents_BT[documents_BT == 2] = 0
    targets_BT = (torch.rand(5, 24, generator=generator) < 0.4) & (documents_BT != 0)
    return targets_BT, documents_BT, torch.rand(5, 24, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_pieces_are_summed_from_the_targets_of_each_document(seed: int, micro_batches: int) -> None:
    """Against a loop over rows and documents, of any number of micro batches; what is padding is none."""
    generator = torch.Generator().manual_seed(seed)
    expected, places, losses = {}, [], [np.zeros(0)]
    for micro in range(micro_batches):
        targets_BT, documents_BT, losses_BT = batch(generator)
        rows = 70 + 5 * micro
        places.append(
            Places.of(targets_BT.numpy(), documents_BT.numpy(), np.arange(rows, rows + 5), np.full(5, micro))
        )
        losses.append(losses_BT[targets_BT].numpy())
        for row in range(5):
            for number in range(1, 13):
                own = losses_BT[row][(documents_BT[row] == number) & targets_BT[row]]
                if len(own):
                    expected[rows + row, number, micro] = [len(own), float(own.sum()), float(own @ own)]
    pieces = Pieces.of(Places.joined(places), np.concatenate(losses))
    names = zip(*(one.tolist() for one in pieces.places[:3]), strict=True)
    found = dict(zip(names, pieces.sums_P3.tolist(), strict=True))
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key]) for key in found)


def test_a_loss_that_is_not_finite_is_no_piece_of_the_usual() -> None:
    places = Places(np.array([3, 4]), np.array([1, 1]), np.array([0, 0]), np.array([2, 1]))
    pieces = Pieces.of(places, np.array([1.0, np.nan, 2.0]))
    assert pieces.places.sample_P.tolist() == [4]
    assert pieces.sums_P3.tolist() == [[1.0, 2.0, 4.0]]


def test_few_targets_of_skewed_losses_do_not_stand_out() -> None:
    """Gamma losses: of 200,000 pieces with one to four targets, sound ones, none."""
    chance = np.random.default_rng(0)
    usual = UsualLosses(["a"])
    out = 0
    for _ in range(100):
        places = Places(
            np.arange(2000), np.ones(2000, dtype=int), np.zeros(2000, dtype=int), chance.integers(1, 5, 2000)
        )
        pieces = Pieces.of(places, chance.gamma(2.8, 1.28, int(places.targets_P.sum())))
        out += int(usual.standing_out(pieces)[0].sum())
        usual.take_up()
    assert out == 0
