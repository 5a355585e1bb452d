"""Next-sentence prediction beside masked language modelling (Devlin et al., 2018, arXiv:1810.04805, 3.1)."""

from typing import Literal

import numpy as np

from lumbre.models import NO_TARGET
from lumbre.tokenizer import Tokenizer

from .pairs import DocumentRows, Pair, PairConfig, Pairs

TRIES = 10


class NextSentenceConfig(PairConfig):
    """Masked tokens, and whether the second text follows the first or is another document's: BERT's."""

    type: Literal["next_sentence"] = "next_sentence"
    """The objective's name."""

    def build(self, tokenizer: Tokenizer, seed: int) -> "NextSentence":
        """Return the objective; raises TokenizerError when there is no [CLS], [SEP] or mask token."""
        return NextSentence(self, tokenizer, seed)


class NextSentence(Pairs):
    """In half of the pairs the second text is from another row, drawn by chance, of another document.

    A text too short to cut always gets such a second text. As published, ten rows are drawn to find another
    document's; after that the text's own second part stays.
    """

    term = "next_sentence"

    def pair(
        self, text: np.ndarray, room: int, chance: np.random.Generator, rows: DocumentRows | None, index: int
    ) -> Pair:
        """Return the text's two parts, or its first and as much of another document, whole sentences."""
        first, second = self.cut(text, chance) if len(text) > 1 else (text, text[:0])
        label = 0 if len(second) else NO_TARGET
        if rows is None or (len(second) and chance.random() < 0.5):
            return Pair(first, second, label)
        other = self._other(rows, index, chance)
        if other is None:
            return Pair(first, second, label)
        start = int(chance.choice(self.starts(other)))
        wanted = len(second) or room - len(first)
        return Pair(first, self.until(other[start:], wanted), 1)

    def _other(self, rows: DocumentRows, index: int, chance: np.random.Generator) -> np.ndarray | None:
        own = rows.document(index)
        for number in chance.integers(rows.num_rows, size=TRIES).tolist():
            if rows.document(number) != own and len(text := self.text(rows.row(number))):
                return text
        return None
