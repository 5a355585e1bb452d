"""The best value of each measure so far, which W&B's own summary forgets when a run is resumed offline."""

import math
from collections.abc import Mapping
from typing import Any

MEASURED = ("loss", "eval/", "downstream/")
"""How the keys begin that have a best value."""
LESS_IS_BETTER = ("loss", "perplexity")


class Best:
    """Keeps the best values, `best/KEY` in the summary; the last ones W&B keeps under KEY."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}

    def update(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Take a row; return what is better than before."""
        better = {
            key: float(value)
            for key, value in row.items()
            if key.startswith(MEASURED) and isinstance(value, int | float) and self._is_better(key, value)
        }
        self._values |= better
        return {f"best/{key}": value for key, value in better.items()}

    def _is_better(self, key: str, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if key not in self._values:
            return True
        less = any(part.startswith(LESS_IS_BETTER) for part in key.split("/"))
        return value < self._values[key] if less else value > self._values[key]
