"""What a run's rows are: a step, and what is known of it."""

import time
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
"""A training row has `loss`, an evaluation row `eval/...` keys, a probe's row `downstream/NAME/...` keys, an
event row `event`; each has `step`. `samples` is how many have been seen, but in the row of what the model
says to prompts, which has a list of {prompt, text} there."""


def event(name: str, step: int, message: str) -> dict[str, Any]:
    """Return the row of an event."""
    return {"event": name, "step": step, "message": message, "time": time.time()}


def kind(row: Row) -> str:
    """Return the row's kind: a step has at most one row of each, events aside."""
    if "event" in row:
        return "event"
    if "loss" in row:
        return "train"
    if is_said(row):
        return "samples"
    # A probe has a row of its own: after a resume, one of a step may have been sent and another not.
    probes = {"/".join(key.split("/")[:2]) for key in row if key.startswith("downstream/")}
    return min(probes, default="eval")


def is_said(row: Row) -> bool:
    """Whether the row holds what the model says to prompts."""
    return isinstance(row.get("samples"), list | tuple)
