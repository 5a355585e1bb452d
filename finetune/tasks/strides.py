"""Rows of a long text: windows that share a stride of tokens (Devlin et al., 2019, arXiv:1810.04805, 4.2)."""

from itertools import pairwise

from .base import ExampleError


def windows(length: int, limit: int, others: int, stride: int) -> list[range]:
    """Return the tokens of each row, for a text of `length` tokens beside `others` in rows of `limit`.

    Every token is in one, and two neighbours share `stride` tokens, as in the package tokenizers. Raises
    ExampleError where a row would bring no token that the one before it does not have.
    """
    room = limit - others
    if length <= room:
        return [range(length)]
    if room <= stride:
        raise ExampleError(
            f"a row has too little room for a stride: max_length {limit} - {others} tokens beside the text "
            f"= {room}, and the stride is {stride} of the text's {length} tokens; raise max_length, or "
            "lower stride"
        )
    step = room - stride
    return [range(start, min(start + room, length)) for start in range(0, length - room + step, step)]


def owned(spans: list[range]) -> list[range]:
    """Return the part of each window that is its own: what two share is halved, so that no token is twice."""
    ends = [(one.stop + two.start) // 2 for one, two in pairwise(spans)]
    return [
        range(start, stop)
        for start, stop in zip([spans[0].start, *ends], [*ends, spans[-1].stop], strict=True)
    ]
