"""What a filter is: a rule that looks at one text and says why it is not wanted."""

from abc import abstractmethod

from lumbre.config import Choice


class FilterConfig(Choice):
    """A rule of quality; a document that breaks one is left out and counted."""

    @abstractmethod
    def fault(self, text: str) -> str | None:
        """Return the rule that a text breaks, in the same words for each text that does, or None."""
