"""What became of a job, in words."""

from pathlib import Path

from ..base import JobState, Run
from ..outcome import EXIT_FILE, last_step, read
from . import cluster

WAITS = {
    "Priority": "others come first",
    "Resources": "waits for nodes to be free",
    "Dependency": "waits for the job before it",
    "DependencyNeverSatisfied": "the job before it has failed",
    "BeginTime": "starts again soon",
    "PartitionTimeLimit": "asks for more time than the partition gives",
    "ReqNodeNotAvail": "nodes that it needs are down",
    "JobArrayTaskLimit": "waits for runs of its grid (at_once)",
    "JobHeldUser": "held: `scontrol release` lets it go",
}
NO_LOG = 53
"""The signal of a job whose log the node cannot open."""
TAIL = 20
"""Lines of a log that are shown with a failure."""


def state_of(run: Run, job: cluster.Job | None, since: float, log: Path) -> JobState:
    """Return the state of a run's job; of one that Slurm has forgotten, what its run folder tells.

    `since` is the Unix time of the launch: what the run recorded before is of another.
    """
    step = last_step(run.folder) if run.job.is_training else None
    told = _told(run, since)
    if job is None:
        return JobState(run.name, "ENDED", told or f"no longer known to Slurm; see {log}", step)
    again = f"restart {job.restarts}" if job.restarts else ""
    if job.state == "PENDING":
        why = WAITS.get(job.reason, job.reason)
        return JobState(run.name, job.state, _join(why, again, told if job.restarts else ""), step)
    if job.state in cluster.ACTIVE:
        return JobState(run.name, job.state, _join(f"on {job.nodes}", again), step)
    if job.state == "COMPLETED":
        return JobState(run.name, job.state, _join(told, again), step)
    return JobState(run.name, job.state, _join(told or _cause(job, log), again), step)


def _cause(job: cluster.Job, log: Path) -> str:
    """Return why a job ended that recorded nothing: Slurm's reason, or the end of its log."""
    if job.signal == NO_LOG:
        return f"node {job.nodes} cannot open {log}: a launch needs a folder that all nodes share"
    if job.reason in WAITS:
        return WAITS[job.reason]
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    except OSError:
        return "it never began" if job.state == "CANCELLED" else f"status {job.status}; it left no log"
    return "\n".join([f"its log ends ({log}):", *lines])


def _told(run: Run, since: float) -> str:
    file = run.folder / EXIT_FILE
    found = read(file) if run.job.is_training else None
    return found.told if found and file.stat().st_mtime >= since else ""


def _join(*parts: str) -> str:
    return "; ".join(filter(None, parts))
