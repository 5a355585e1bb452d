"""Cut long texts where the ids do not show it."""

import re
from collections.abc import Iterator

_WORD_BEGINS = (re.compile(r"(?<=\S) (?=\S)"), re.compile(r"(?<=\S)\n(?=\S)"))
"""A newline is the second choice: some tokenizers join it to the punctuation before it."""


def split_text(text: str, limit: int = 1 << 16) -> Iterator[str]:
    """Cut a long text into pieces of about `limit` characters, each before a single space or newline."""
    start = 0
    while len(text) - start > limit:
        places = (begin.search(text, start + limit, start + 2 * limit) for begin in _WORD_BEGINS)
        place = next(filter(None, places), None)
        end = place.start() if place else min(len(text), start + 2 * limit)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
