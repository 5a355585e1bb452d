"""A launch whose launcher stays in the foreground, seen from another shell: through its record."""

import os
import platform
import signal
from pathlib import Path
from typing import Any

from lumbre.errors import ExitStatus, LaunchError

from ..base import JobState, Record
from ..outcome import EXIT_FILE, last_step, read

STATES = {
    int(ExitStatus.DONE): "COMPLETED",
    int(ExitStatus.STOPPED): "STOPPED",
    int(ExitStatus.WATCHDOG): "LOST",
}
"""A run's state by the status it ended with; FAILED with any other."""


def identity() -> dict[str, Any]:
    """Return what this process is known by, even when its number is given to another."""
    return {"machine": platform.node(), "process": os.getpid(), "started": _started(os.getpid())}


def is_alive(state: dict[str, Any]) -> bool:
    """Whether the launcher of the record still runs; asked on its own machine."""
    return state["started"] is not None and _started(state["process"]) == state["started"]


def status(record: Record) -> list[JobState]:
    """Return each run's state; of one whose launcher was killed, what the run itself recorded."""
    runs = [run for task in record.launch.tasks for run in task.runs]
    is_here = record.state["machine"] == platform.node()
    states = []
    for run, kept in zip(runs, record.state["runs"], strict=True):
        state, detail = kept["state"], kept["detail"]
        if state == "RUNNING" and is_here and not is_alive(record.state):
            state, detail = "LOST", "its launcher was killed; run the same command again"
            file = run.folder / EXIT_FILE
            if (ended := read(file)) and file.stat().st_mtime >= record.time:
                state, detail = STATES.get(ended.status, "FAILED"), ended.told
        states.append(JobState(run.name, state, detail, last_step(run.folder)))
    return states


def cancel(record: Record) -> None:
    """Ask the launcher to have the job saved and stopped.

    Raises LaunchError where the launcher runs on another machine, or no more.
    """
    state = record.state
    name, process = record.launch.name, state["process"]
    if state["machine"] != platform.node():
        raise LaunchError(f"{name}: its launcher is process {process} on {state['machine']}; cancel it there")
    if not is_alive(state):
        raise LaunchError(f"{name}: its launcher runs no more; see `lumbre launch status {name}`")
    os.kill(process, signal.SIGTERM)


def _started(process: int) -> int | None:
    """Return when a process began, in ticks since the machine did; None where there is none."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None
