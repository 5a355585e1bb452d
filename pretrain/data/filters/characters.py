"""Documents with few letters or many symbols (after Rae et al., 2021, arXiv:2112.11446, A.1.1)."""

import sys
import unicodedata
from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .base import FilterConfig

Share = Annotated[float, Field(ge=0, le=1)]
SPACE, LETTER, DIGIT, SYMBOL = range(4)


class CharactersConfig(FilterConfig):
    """What shares of its characters, white space left out, a document may have."""

    type: Literal["characters"] = "characters"
    min_letters: Share = 0.6
    """Least share of letters of any script, and of the marks that belong to them."""
    min_alphanumeric: Share = 0.0
    """Least share of letters and digits together."""
    max_symbols: Share = 0.3
    """Largest share of what is neither letter nor digit: punctuation, signs, pictures."""

    def fault(self, text: str) -> str | None:
        """Return the share that a text breaks, or None."""
        letters, digits, symbols = kinds_of(text)
        total = max(letters + digits + symbols, 1)
        if letters < self.min_letters * total:
            return f"a share of letters below {self.min_letters:g}"
        if letters + digits < self.min_alphanumeric * total:
            return f"a share of letters and digits below {self.min_alphanumeric:g}"
        if symbols > self.max_symbols * total:
            return f"a share of symbols above {self.max_symbols:g}"
        return None


def kinds_of(text: str) -> tuple[int, int, int]:
    """Return the numbers of letters, digits and symbols of a text that is valid Unicode."""
    if text.isascii():
        counts = np.bincount(_table()[np.frombuffer(text.encode(), np.uint8)], minlength=4)
    else:
        counts = np.bincount(_table()[np.frombuffer(text.encode("utf-32-le"), np.uint32)], minlength=4)
    _, letters, digits, symbols = counts.tolist()
    return letters, digits, symbols


@cache
def _table() -> np.ndarray:
    """Return the kind of every code point."""
    kinds = {"L": LETTER, "M": LETTER, "N": DIGIT}
    points = (chr(point) for point in range(sys.maxunicode + 1))
    return np.fromiter(
        (SPACE if one.isspace() else kinds.get(unicodedata.category(one)[0], SYMBOL) for one in points),
        np.uint8,
        sys.maxunicode + 1,
    )
