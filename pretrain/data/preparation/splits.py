"""Which documents are for training, which for evaluation: by the hash of their text, or by their source."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ..shards import SplitName

TRAIN: SplitName = "train"
VALIDATION: SplitName = "validation"


class Splits:
    """Chooses a split for each document by the second half of its hash; what no fraction takes is train.

    A document keeps its split whatever is added to the corpus or leaves it, with one exception: a fraction
    above 0 gets at least one document of a corpus that has one to spare, the lowest hash among those that no
    earlier fraction took. That document goes back once the corpus is large enough for the fraction to have
    one of its own.

    The first `given` sources are the validation split's own.
    """

    def __init__(
        self, fractions: Mapping[SplitName, float], rows: Iterable[np.ndarray], given: int = 0
    ) -> None:
        """Look through all documents, each of which stands once in `rows`, to see which splits lack one."""
        self._given = given
        self._ranges: dict[SplitName, tuple[int, int]] = {}
        low = 0
        for name, fraction in fractions.items():
            high = low + math.floor(fraction * 2**64)
            self._ranges[name] = low, min(high, 2**64 - 1)
            low = high
        names = (TRAIN, *fractions)
        self._moved: dict[tuple[int, int], SplitName] = {}
        counts = dict.fromkeys(names, 0)
        lowest: dict[SplitName, list[tuple[int, int]]] = {name: [] for name in names}
        for some in rows:
            for name, mine in self.of(some).items():
                counts[name] += len(mine)
                near = mine[np.argsort(mine["split"], kind="stable")[: len(fractions)]]
                found = zip(near["split"].tolist(), near["order"].tolist(), strict=True)
                lowest[name] = sorted([*lowest[name], *found])[: len(fractions)]
        self.documents = sum(counts.values())
        self._move(fractions, counts, lowest)

    def _move(
        self,
        fractions: Mapping[SplitName, float],
        counts: dict[SplitName, int],
        lowest: dict[SplitName, list[tuple[int, int]]],
    ) -> None:
        left = self.documents
        for name, fraction in fractions.items():
            own = lowest.pop(name)
            if fraction and not counts[name] and left > 1:
                there = min((found[0], taken_from) for taken_from, found in lowest.items() if found)
                (split, order), taken_from = there
                lowest[taken_from].remove((split, order))
                counts[taken_from] -= 1
                self._moved[order, split] = name
                counts[name] = 1
            left -= counts[name]
            del own

    def of(self, rows: np.ndarray) -> dict[SplitName, np.ndarray]:
        """Return the rows of each split, in their order."""
        chosen: dict[SplitName, np.ndarray] = {}
        moved = {key: (rows["order"] == key[0]) & (rows["split"] == key[1]) for key in self._moved}
        given = rows["source"] < self._given
        elsewhere = given.copy()
        for mask in moved.values():
            elsewhere |= mask
        train = ~elsewhere
        for name, (low, high) in self._ranges.items():
            mine = (rows["split"] >= low) & (rows["split"] < high) & ~elsewhere
            train &= ~mine
            for key, mask in moved.items():
                if self._moved[key] == name:
                    mine |= mask
            if name == VALIDATION:
                mine |= given
            chosen[name] = rows[mine]
        return {TRAIN: rows[train], **chosen}
