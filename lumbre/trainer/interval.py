"""What passes between two training rows, and the pace that it comes to."""

import time
from dataclasses import dataclass, field

from lumbre import distributed
from lumbre.hardware import Peak


@dataclass
class Interval:
    """What has passed since the last training row; evaluations and saves are left out of its time."""

    began: float = field(default_factory=time.perf_counter)
    left_out: float = 0.0
    steps: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    data_seconds: float = 0.0
    model_seconds: float = 0.0

    def row(self, until: float, peak: Peak | None) -> dict[str, float | None]:
        """Return its part of a training row; MFU is none where there is no peak to measure by."""
        seconds = until - self.began - self.left_out
        mfu = None
        if peak is not None:
            mfu = self.flops / seconds / (peak.flops_per_second * distributed.world().size)
        return {
            "tokens_per_second": self.tokens / seconds,
            "mfu": mfu,
            "step_seconds": seconds / self.steps,
            "data_seconds": self.data_seconds / self.steps,
            "overhead_seconds": (seconds - self.data_seconds - self.model_seconds) / self.steps,
        }
