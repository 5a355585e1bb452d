"""Our side with a loss planted: every second step does part of its work twice.

python -m tests.benchmarks.slowed JOB
"""

import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.speed import ours


class Slowed(ours.Gated):
    """The loop, whose forward pass is done twice in every second step."""

    def __post_init__(self) -> None:
        """Put the second pass in."""
        super().__post_init__()
        once, steps = self.learner.loss, count()

        def loss(*arguments: Any, **keys: Any) -> Any:
            if next(steps) % 2:
                once(*arguments, **keys)
            return once(*arguments, **keys)

        self.learner.loss = loss


if __name__ == "__main__":
    ours.Gated = Slowed
    ours.main(json.loads(Path(sys.argv[1]).read_text()))
