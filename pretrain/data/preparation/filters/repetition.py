"""Documents that repeat themselves, by lines and n-grams (Rae et al., 2021, arXiv:2112.11446, table A1)."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .base import FilterConfig

Share = Annotated[float, Field(ge=0, le=1)]
FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64
)
"""Odd numbers that make one number of an n-gram of hashes."""


class RepetitionConfig(FilterConfig):
    """How much of a document may be repetition; 1 leaves a rule out."""

    type: Literal["repetition"] = "repetition"
    max_duplicate_lines: Share = 0.3
    """Largest share of the lines that stand before in the document; blank ones do not count."""
    max_top_2gram: Share = 0.20
    """Largest share of the characters that the most frequent pair of words takes."""
    max_top_3gram: Share = 0.18
    """The same for three words in a row."""
    max_top_4gram: Share = 0.16
    """The same for four words in a row."""

    def fault(self, text: str) -> str | None:
        """Return the share that a text breaks, or None."""
        if self.max_duplicate_lines < 1 and duplicate_lines(text) > self.max_duplicate_lines:
            return f"a share of duplicate lines above {self.max_duplicate_lines:g}"
        limits = {2: self.max_top_2gram, 3: self.max_top_3gram, 4: self.max_top_4gram}
        limits = {size: limit for size, limit in limits.items() if limit < 1}
        words = text.split()
        if not limits or not words:
            return None
        # A rule is broken by so many repeats or more, were all words as long as the longest.
        longest = max(map(len, words))
        fewest = {size: int(limit * len(text) / (size * longest)) + 1 for size, limit in limits.items()}
        hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
        if not _repeats(hashes, min(limits), min(fewest.values())):
            return None
        for size, limit in limits.items():
            if _repeats(hashes, size, fewest[size]) and top_ngram(words, size) > limit * len(text):
                return f"a share of the most frequent {size}-gram above {limit:g}"
        return None


def duplicate_lines(text: str) -> float:
    """Return the share of the lines that are not blank and stand before in the text."""
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def top_ngram(words: Sequence[str], size: int) -> int:
    """Return the characters that the most frequent n-gram takes; 0 if none occurs twice.

    Of several that are as frequent, the first in the text counts; white space is left out.
    """
    counts = Counter(zip(*(words[first:] for first in range(size)), strict=False))
    if not counts:
        return 0
    ngram, count = counts.most_common(1)[0]
    return count * sum(map(len, ngram)) if count > 1 else 0


def _repeats(hashes: np.ndarray, size: int, count: int) -> bool:
    """Return whether any n-gram of hashed words occurs so often, and at least twice."""
    total = len(hashes) - size + 1
    apart = max(count, 2) - 1
    if apart >= total:
        return False
    grams = hashes[:total] * FACTORS[0]
    for first in range(1, size):
        grams += hashes[first : first + total] * FACTORS[first]
    grams.sort()
    return bool((grams[apart:] == grams[:-apart]).any())
