"""Shares of a parameter: every element is in one, and each knows where its own are."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.models.share import Share


@st.composite
def shared(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Share]]:
    """Return a shape and the shares of its ranks."""
    size = draw(st.integers(1, 4))
    parts = [size * part for part in draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))]
    shape = draw(st.lists(st.integers(1, 3), max_size=2))
    dim = draw(st.integers(0, len(shape)))
    shape.insert(dim, sum(parts))
    return tuple(shape), [Share.of(shape, dim, parts, rank, size) for rank in range(size)]


@settings(deadline=None)
@given(shared())
def test_every_element_is_in_one_share(case: tuple[tuple[int, ...], list[Share]]) -> None:
    shape, shares = case
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    assert sorted(torch.cat([share.cut(numbers).flatten() for share in shares]).tolist()) == list(
        range(numbers.numel())
    )
    back = torch.zeros_like(numbers)
    for share in shares:
        share.put(share.cut(numbers).flatten(), back)
    assert torch.equal(back, numbers)


@settings(deadline=None)
@given(shared(), st.data())
def test_a_share_knows_where_its_elements_are(
    case: tuple[tuple[int, ...], list[Share]], data: st.DataObject
) -> None:
    """What it says of places is what it cuts, and it counts those before any position."""
    shape, shares = case
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    for share in shares:
        own = share.cut(numbers).flatten()
        start = data.draw(st.integers(0, own.numel()))
        stop = data.draw(st.integers(start, own.numel()))
        assert torch.equal(share.places(start, stop), own[start:stop])
        position = data.draw(st.integers(0, numbers.numel()))
        assert share.before(position) == int((own < position).sum())


def test_queries_keys_and_values_of_one_matrix_are_shared_by_heads() -> None:
    """Four heads of queries and two of keys and values, two rows each."""
    share = Share.of((16, 3), 0, [8, 4, 4], 1, 2)
    assert share.ranges == ((4, 8), (10, 12), (14, 16))
    assert share.width == 8
