"""Parts of rows: together they are the row, and no label is in two."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lumbre.world import Place
from pretrain.data.parts import part, parts

NAMES = st.sampled_from(["input_ids", "document_ids", "labels", "original_labels"])


@given(name=NAMES, length=st.integers(1, 40), count=st.integers(1, 8))
def test_parts_are_as_long_and_are_the_row_and_then_padding(name: str, length: int, count: int) -> None:
    row = np.arange(1, length + 1, dtype=np.int32)
    cut = [part(name, row, Place(index, count)) for index in range(count)]
    assert len({len(one) for one in cut}) == 1
    whole = np.concatenate(cut)
    assert whole.dtype == row.dtype
    assert np.array_equal(whole[:length], row)
    assert len(whole) - length < count
    assert np.all(whole[length:] == (-100 if name.endswith("labels") else 0))


@given(count=st.integers(1, 8), label=st.integers(0, 5))
def test_a_label_of_the_whole_row_is_the_first_parts(count: int, label: int) -> None:
    """Beside it, what says where the row comes from is every part's."""
    row = {"pair_labels": np.array(label), "source": np.array(label)}
    cut = [parts(lambda _: row, Place(index, count))(0) for index in range(count)]
    assert [int(one["pair_labels"]) for one in cut] == [label, *[-100] * (count - 1)]
    assert [int(one["source"]) for one in cut] == [label] * count
