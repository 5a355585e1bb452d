"""Documents that are too short or too long (Rae et al., 2021, arXiv:2112.11446, A.1.1)."""

from collections.abc import Iterator
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from lumbre.errors import Problem

from .base import FilterConfig


class LengthConfig(FilterConfig):
    """How long a document may be; by default 50 to 100,000 words, as for MassiveWeb."""

    type: Literal["length"] = "length"
    min_words: NonNegativeInt = 50
    """Fewest words; what stands between white space is a word."""
    max_words: PositiveInt | None = 100_000
    """Most words."""
    min_characters: NonNegativeInt = 0
    """Fewest characters, white space at the ends not counted."""
    max_characters: PositiveInt | None = None
    """Most characters, white space at the ends not counted."""

    def problems(self) -> Iterator[Problem]:
        """Report limits that no document can keep, or that every one keeps."""
        for unit in ("words", "characters"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if high is not None and low > high:
                yield Problem(
                    f"min_{unit}", f"{low} is above max_{unit} {high}", "lower one or raise the other"
                )
        if not (self.min_words or self.min_characters or self.max_words or self.max_characters):
            yield Problem("", "sets no limit", "set one of its keys, or leave the filter out")

    def fault(self, text: str) -> str | None:
        """Return the limit that a text breaks, or None."""
        if self.min_characters or self.max_characters:
            characters = len(text.strip())
            if characters < self.min_characters:
                return f"fewer than {self.min_characters:,} characters"
            if self.max_characters is not None and characters > self.max_characters:
                return f"more than {self.max_characters:,} characters"
        if self.min_words and len(text.split(None, self.min_words)) < self.min_words:
            return f"fewer than {self.min_words:,} words"
        # A word and the space after it take two characters or more: few texts need counting.
        most = self.max_words
        if most is not None and len(text) > 2 * most and len(text.split(None, most)) > most:
            return f"more than {most:,} words"
        return None
