"""Gradients that go to a disk are cut on its blocks."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from lumbre.engine.optimizer_swap import aligned


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 9))
def test_pieces_are_the_whole_and_those_of_a_block_or_more_lie_on_blocks(
    sizes: list[int], block: int
) -> None:
    flat = torch.arange(sum(sizes))
    offsets = [sum(sizes[:index]) for index in range(len(sizes))]
    tensors = [flat[at : at + size] for at, size in zip(offsets, sizes, strict=True)]
    pieces, places = aligned(tensors, offsets, block)
    assert torch.equal(torch.cat(pieces), flat)
    assert places == [int(piece[0]) for piece in pieces]
    for piece, place in zip(pieces, places, strict=True):
        if len(piece) >= block:
            assert place % block == len(piece) % block == 0
