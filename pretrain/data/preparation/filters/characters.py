"""Documents with few letters or many symbols (after Rae et al., 2021, arXiv:2112.11446, A.1.1)."""

import unicodedata
from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .base import FilterConfig

Share = Annotated[float, Field(ge=0, le=1)]
SPACE, LETTER, DIGIT, SYMBOL = range(4)
TABLED = 1 << 16


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
    is_ascii = text.isascii()
    raw = text.encode("ascii" if is_ascii else "utf-32-le")
    points: np.ndarray = np.frombuffer(raw, "<u1" if is_ascii else "<u4")
    found = _table()[points if is_ascii else np.minimum(points, TABLED)]
    counts = [int(np.count_nonzero(found == kind)) for kind in (LETTER, DIGIT, SYMBOL)]
    # What is beyond the table was taken for its last entry, which is white space there.
    if not is_ascii:
        for point in points[points >= TABLED].tolist():
            kind = _kind(chr(point))
            counts[kind - 1] += kind > SPACE
    letters, digits, symbols = counts
    return letters, digits, symbols


@cache
def _table() -> np.ndarray:
    """Return the kind of every code point of the basic plane, where nearly all text is."""
    kinds = np.fromiter(map(_kind, map(chr, range(TABLED + 1))), np.uint8, TABLED + 1)
    kinds[TABLED] = SPACE
    return kinds


def _kind(character: str) -> int:
    kinds = {"L": LETTER, "M": LETTER, "N": DIGIT}
    return SPACE if character.isspace() else kinds.get(unicodedata.category(character)[0], SYMBOL)
