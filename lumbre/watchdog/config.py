"""How long a run may stand still before it is ended."""

from typing import Literal

from pydantic import PositiveFloat

from lumbre.config import Config


class WatchdogConfig(Config):
    """How long a run may stand still; what takes longer is explained, and the job ends with status 76."""

    enabled: bool = True
    """Whether hangs end the job; set it to false while you debug a step by hand."""
    limit_seconds: PositiveFloat | Literal["auto"] = "auto"
    """How long a step may take; auto: ten times the usual step, and at least five minutes."""
    start_seconds: PositiveFloat = 1800.0
    """How long the start may go without a sign of life: data, model, compilation, up to the first step."""
    allowance_seconds: PositiveFloat = 1800.0
    """How long an evaluation, a save, a probe, the export and the end may go without a sign of life."""
    rendezvous_seconds: PositiveFloat = 600.0
    """How long the first rank waits for the last one at the start."""

    @property
    def collective_timeout_seconds(self) -> float:
        """After how long torch itself gives a collective up: later than the watchdog, which explains more."""
        longest = max(self.start_seconds, self.allowance_seconds)
        if self.limit_seconds != "auto":
            longest = max(longest, self.limit_seconds)
        return max(1800.0, 2 * longest)
