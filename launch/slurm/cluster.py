"""Slurm's own commands, and what they say."""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lumbre.errors import LaunchError

from .units import minutes

ACTIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STOPPED"}
"""States of jobs that have not ended."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike."""

    partition: str
    is_default: bool
    count: int
    cpus: int
    gpus: Mapping[str, int]
    """How many GPUs of each type; those without one are of the type ""."""
    minutes: float
    """The partition's time limit."""


@dataclass(frozen=True)
class Job:
    """A job, or one of an array, as squeue tells it."""

    number: str
    """12, or 12_3 of an array."""
    state: str
    reason: str
    nodes: str
    status: int
    signal: int
    restarts: int


def ask(*words: str, where: Path | None = None) -> str:
    """Return what a command of Slurm's prints; raises LaunchError with its own words where it fails."""
    try:
        done = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError as error:
        remedy = "call lumbre launch on a machine that submits to the cluster"
        raise LaunchError(f"{words[0]} is not on this machine; {remedy}") from error
    except subprocess.TimeoutExpired as error:
        raise LaunchError(f"{words[0]}: Slurm has not answered for 120 s; ask `scontrol ping`") from error
    if done.returncode != 0:
        raise LaunchError(f"{words[0]} refused: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout


def all_nodes() -> list[Nodes]:
    """Return what the partitions have."""
    found = []
    for line in ask("sinfo", "-h", "-o", "%P|%D|%c|%l|%G").splitlines():
        partition, count, cpus, limit, gres = line.strip().split("|", 4)
        longest = minutes(limit)
        found.append(
            Nodes(
                partition.rstrip("*"),
                partition.endswith("*"),
                int(count),
                int(cpus.rstrip("+")),
                _gpus(gres),
                float("inf") if longest is None else longest,
            )
        )
    return found


def associations(user: str) -> list[tuple[str, set[str]]]:
    """Return the accounts that a user may charge, each with its QOS; none where Slurm keeps no accounts."""
    words = ("sacctmgr", "-n", "-P", "show", "associations", f"user={user}", "format=account,qos")
    try:
        lines = ask(*words).splitlines()
    except LaunchError:
        return []
    pairs = [line.partition("|") for line in lines if "|" in line]
    return [(account, set(filter(None, names.split(",")))) for account, _, names in pairs]


def jobs(numbers: Iterable[str]) -> dict[str, Job]:
    """Return the jobs that Slurm still knows, elements of arrays one by one, by number."""
    found = {}
    fields = "JobArrayID:|,State:|,Reason:|,NodeList:|,exit_code:|,RestartCnt:|"
    for number in numbers:
        try:
            lines = ask("squeue", "-h", "-r", "-t", "all", "-j", number, "-O", fields).splitlines()
        except LaunchError as error:
            # A job that has ended some minutes ago is forgotten, which is no fault.
            if "Invalid job id" not in str(error):
                raise
            continue
        for line in lines:
            name, state, reason, nodes, code, restarts = (part.strip() for part in line.split("|")[:6])
            found[name] = Job(name, state, reason, nodes, int(code) >> 8, int(code) & 127, int(restarts or 0))
    return found


def submit(script: str, log: str, folder: Path, after: str | None) -> str:
    """Return the number of the job that sbatch makes of a script, which begins after another is done.

    `log` is the name of its log, with sbatch's own patterns.
    """
    waits = [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    # sbatch looks for patterns in the whole path.
    output = f"--output={str(folder).replace('%', '%%')}/{log}"
    return ask("sbatch", "--parsable", output, *waits, script, where=folder).strip().partition(";")[0]


def _gpus(gres: str) -> dict[str, int]:
    """Read sinfo's column of generic resources: `gpu:a100:4(S:0-1),license:1`."""
    found: dict[str, int] = {}
    for item in gres.split(","):
        words = item.partition("(")[0].split(":")
        if words[0] == "gpu" and words[-1].isdigit():
            kind = words[1] if len(words) > 2 else ""
            found[kind] = found.get(kind, 0) + int(words[-1])
    return found
