"""Which rank sees which parameter whole, and that it comes back as it went."""

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st

from lumbre.optim import Piece
from lumbre.optim.pieces import Shared, share_out

Shapes = list[tuple[int, int]]
SHAPES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


def evenly(shapes: Shapes, ranks: int) -> list[list[Piece]]:
    """Return the pieces of stage 3: each parameter in as many parts as there are ranks."""
    by_rank: list[list[Piece]] = [[] for _ in range(ranks)]
    offset = 0
    for index, shape in enumerate(shapes):
        part = -(-prod(shape) // ranks)
        for rank, pieces in enumerate(by_rank):
            numel = max(0, min(prod(shape) - rank * part, part))
            pieces.append(Piece(str(index), shape, rank * part, offset, numel))
        offset += part
    return by_rank


def in_a_row(shapes: Shapes, ranks: int) -> list[list[Piece]]:
    """Return the pieces of stages 1 and 2: all parameters in a row, cut into as many parts."""
    part = -(-sum(map(prod, shapes)) // ranks)
    by_rank: list[list[Piece]] = []
    for rank in range(ranks):
        pieces, at = [], 0
        for index, shape in enumerate(shapes):
            begin, end = max(at, rank * part), min(at + prod(shape), (rank + 1) * part)
            if begin < end:
                pieces.append(Piece(str(index), shape, begin - at, begin - rank * part, end - begin))
            at += prod(shape)
        by_rank.append(pieces)
    return by_rank


@given(SHAPES, st.integers(1, 5), st.sampled_from([evenly, in_a_row]))
def test_a_parameter_is_seen_whole_by_one_rank_that_has_most_of_it(shapes, ranks, cut) -> None:  # type: ignore[no-untyped-def]
    by_rank = cut(shapes, ranks)
    owners = share_out(by_rank)
    assert owners.keys() == {str(index) for index in range(len(shapes))}
    for name, owner in owners.items():
        held = [sum(one.numel for one in pieces if one.name == name) for pieces in by_rank]
        assert held[owner] == max(held)


@given(st.integers(1, 6), st.integers(1, 4))
def test_equal_matrices_are_shared_out_evenly(times: int, ranks: int) -> None:
    owners = share_out(evenly([(8, 8 * ranks)] * (times * ranks), ranks))
    assert all(list(owners.values()).count(rank) == times for rank in range(ranks))


@given(SHAPES)
def test_what_one_rank_has_comes_back_as_it_went(shapes: Shapes) -> None:
    """Without a process group, for there is nobody to ask."""
    (pieces,) = in_a_row(shapes, 1)
    flat = torch.arange(sum(map(prod, shapes)) + 3.0)
    shared = Shared([pieces], 0, torch.device("cpu"))
    wholes = shared.gather(flat)
    assert [tuple(wholes[str(index)].shape) for index in range(len(shapes))] == shapes
    assert torch.equal(torch.cat([wholes[str(index)].flatten() for index in range(len(shapes))]), flat[:-3])
    before = flat.clone()
    shared.scatter({name: -whole for name, whole in wholes.items()}, flat)
    assert torch.equal(flat[:-3], -before[:-3])
    assert torch.equal(flat[-3:], before[-3:])
