"""Rows of a long text: every token in one, as the package tokenizers cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from finetune.tasks import ExampleError
from finetune.tasks.strides import owned, windows

sizes = st.tuples(st.integers(1, 200), st.integers(1, 40), st.integers(0, 20), st.integers(0, 30)).filter(
    lambda drawn: drawn[0] <= drawn[1] - drawn[2] or drawn[1] - drawn[2] > drawn[3]
)


@given(sizes)
def test_windows_are_those_of_the_tokenizers_package(drawn: tuple[int, int, int, int]) -> None:
    length, limit, others, stride = drawn
    found = windows(length, limit, others, stride)
    backend = Tokenizer(models.WordLevel({str(at): at for at in range(length)}, unk_token="0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if length > limit - others:
        backend.enable_truncation(limit - others, stride=stride)
    whole = backend.encode(" ".join(map(str, range(length))))
    assert [list(one) for one in found] == [part.ids for part in (whole, *whole.overflowing)]


@given(sizes)
def test_a_token_is_one_rows_own(drawn: tuple[int, int, int, int]) -> None:
    found = windows(*drawn)
    parts = owned(found)
    assert [token for part in parts for token in part] == list(range(drawn[0]))
    for part, span in zip(parts, found, strict=True):
        assert span.start <= part.start <= part.stop <= span.stop


@given(sizes)
def test_an_own_token_has_half_a_stride_around_it(drawn: tuple[int, int, int, int]) -> None:
    """On each side where the text goes on."""
    found = windows(*drawn)
    for part, span in zip(owned(found), found, strict=True):
        assert span.start == 0 or part.start - span.start >= drawn[3] // 2
        assert span.stop == drawn[0] or span.stop - part.stop >= drawn[3] // 2


@pytest.mark.parametrize("limit", [0, 25, 30])
def test_a_text_that_no_stride_can_cover_is_told_with_the_arithmetic(limit: int) -> None:
    with pytest.raises(ExampleError) as caught:
        windows(100, limit, 10, 20)
    assert str(caught.value) == (
        f"a row has too little room for a stride: max_length {limit} - 10 tokens beside the text = "
        f"{limit - 10}, and the stride is 20 of the text's 100 tokens; raise max_length, or lower stride"
    )
