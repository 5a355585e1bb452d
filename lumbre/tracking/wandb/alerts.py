"""Which events of a run W&B tells its users of, by mail or chat: failures, spikes and remedies, stalls."""

import time
from collections.abc import Mapping
from typing import Any

from lumbre.errors import ExitStatus

SECONDS_BETWEEN = 3600.0
"""A cause that comes back sooner is not told again."""
TITLES = {
    "loss_spike": ("Loss spike", "WARN"),
    "step_skipped": ("Step skipped", "WARN"),
    "rolled_back": ("Rolled back", "WARN"),
    "quarantined": ("Document quarantined", "WARN"),
    "stalled": ("Stalled", "WARN"),
    "watchdog": ("Ended by the watchdog", "ERROR"),
    "failed": ("Failed", "ERROR"),
}
"""The title and level of each event that is told."""


class Alerts:
    """Turns events into alerts, each cause once an hour; `wandb sync` sends those of offline runs."""

    def __init__(self, run: Any, name: str) -> None:
        self._run, self._name = run, name
        self._told: dict[str, float] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        """Tell of an event if it is one that is told."""
        cause = str(row.get("event"))
        if (
            cause not in TITLES
            or time.monotonic() < self._told.get(cause, -SECONDS_BETWEEN) + SECONDS_BETWEEN
        ):
            return
        self._told[cause] = time.monotonic()
        title, level = TITLES[cause]
        text = f"{self._name}, step {row.get('step')}: {row.get('message') or title}"
        self._run.alert(title=title, text=text, level=level, wait_duration=SECONDS_BETWEEN)

    def end(self, exit_status: int, step: int) -> None:
        """Tell of a run that ends otherwise than done or saved, unless its cause has been told."""
        if exit_status not in (ExitStatus.DONE, ExitStatus.STOPPED):
            self.take({"event": "failed", "step": step, "message": f"ended with status {exit_status}"})
