"""`lumbre launch LAUNCH_CONFIG [key=value ...] -- PROGRAM CONFIG ... [-- PROGRAM CONFIG ...]`."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lumbre.config import load
from lumbre.errors import ConfigError, ExitStatus, LaunchError, Problem

from . import docker as docker
from . import kubernetes as kubernetes
from . import local as local
from . import records
from . import slurm as slurm
from . import ssh as ssh
from .attempt import attempt_here
from .base import PROGRAMS, CheckError, Job, Launch, LauncherConfig
from .check import check_all
from .follow import VERBS, follow
from .outcome import last_outcome
from .sweep import agent_here, count_agents, sweep

EXAMPLE = "lumbre launch local processes=2 -- pretrain configs/pretrain/quickstart-bert.yaml train.steps=100"
DRY_RUN = "--dry-run"


def main(argv: Sequence[str]) -> int:
    """Start the jobs and return the exit status; with --dry-run print what would be run.

    A job that begins on a cluster leaves 0 here; `lumbre launch status` follows it. Raises LaunchError for
    a line that is no job or what the cluster refuses, ConfigError for a launch config that is wrong.
    """
    if argv and argv[0] in VERBS:
        return follow(argv[0], argv[1:])
    if argv and argv[0] == "outcome":
        return last_outcome(argv[1:])
    if argv and argv[0] == "agent":
        return agent_here(argv[1:])
    if argv and argv[0] == "attempt":
        return attempt_here(argv[1:])
    is_sweep = list(argv[:1]) == ["sweep"]
    dry_run, (file, *overrides), jobs = split(argv[is_sweep:])
    agents, overrides = count_agents(overrides) if is_sweep else (0, overrides)
    config = load(LauncherConfig, file, overrides, room="launch")
    launcher = config.build()
    if not dry_run and (problems := list(launcher.faults())):
        raise ConfigError([_placed(problem, file) for problem in problems])
    files: dict[str, str] = {}
    try:
        if is_sweep:
            launch, files = sweep(config, jobs, agents, dry_run=dry_run)
        else:
            tasks = check_all(jobs, config.grid, launcher.world_size)
            name = config.launch_name or tasks[-1].name
            launch = Launch(name, tasks, records.folder_of(name), Path.cwd())
    except CheckError:
        return ExitStatus.USER_ERROR
    if dry_run:
        show({**files, **launcher.render(launch)})
        return ExitStatus.DONE
    return launcher.submit(launch, partial(records.write, launch, config))


def split(argv: Sequence[str]) -> tuple[bool, list[str], list[Job]]:
    """Return whether it is a dry run, the launch config with its overrides, and the chain of jobs.

    The first `--` may be missing where the job begins with a program's name: option parsers swallow it.
    """
    line = list(argv)
    at = next((place for place, word in enumerate(line) if word == "--" or word in PROGRAMS), len(line))
    words, rest = line[:at], line[at + 1 if line[at : at + 1] == ["--"] else at :]
    own = [word for word in words if word != DRY_RUN]
    if not own:
        raise LaunchError(f"the launch config is missing; for example: {EXAMPLE}")
    if not rest:
        raise LaunchError(f"there is no job after the launch config; for example: {EXAMPLE}")
    chain: list[list[str]] = [[]]
    for word in rest:
        if word == "--":
            chain.append([])
        else:
            chain[-1].append(word)
    for job in chain:
        if not job:
            raise LaunchError(f"there is no job after '--'; for example: {EXAMPLE}")
        if job[0] not in PROGRAMS:
            raise LaunchError(f"{job[0]!r} is not one of {', '.join(PROGRAMS)}; for example: {EXAMPLE}")
        if len(job) < 2:
            raise LaunchError(f"{job[0]} needs a config; for example: {EXAMPLE}")
    return DRY_RUN in words, own, [Job(job[0], tuple(job[1:])) for job in chain]


def show(files: dict[str, str]) -> None:
    """Print rendered files; their names too where there are several."""
    for name, text in files.items():
        if len(files) > 1:
            print(f"==> {name}")
        print(text.rstrip("\n"))


def _placed(problem: Problem, file: str) -> Problem:
    return problem if problem.place else Problem(problem.key, problem.fault, problem.remedy, file)


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "lumbre.cli", "launch", *sys.argv[1:]])
