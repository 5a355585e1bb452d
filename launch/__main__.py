"""`lumbre launch LAUNCH_CONFIG [key=value ...] -- PROGRAM CONFIG ...`: one job through one launcher."""

import os
import sys
from collections.abc import Sequence

from lumbre.config import load
from lumbre.errors import ExitStatus, LaunchError

from . import local as local
from .base import PROGRAMS, CheckError, Job, LauncherConfig

EXAMPLE = "lumbre launch local processes=2 -- pretrain configs/pretrain/quickstart-bert.yaml train.steps=100"
DRY_RUN = "--dry-run"


def main(argv: Sequence[str]) -> int:
    """Start the job and return its exit status; with --dry-run print what would be run.

    Raises LaunchError for a line that is no job, ConfigError for a launch config that is wrong.
    """
    dry_run, (config, *overrides), job = split(argv)
    launcher = load(LauncherConfig, config, overrides, room="launch").build()
    if dry_run:
        print(launcher.render(job))
        return ExitStatus.DONE
    try:
        return launcher.run(job)
    except CheckError:
        return ExitStatus.USER_ERROR


def split(argv: Sequence[str]) -> tuple[bool, list[str], Job]:
    """Return whether it is a dry run, the launch config with its overrides, and the job.

    The `--` may be missing where the job begins with a program's name: option parsers swallow it.
    """
    line = list(argv)
    at = next((place for place, word in enumerate(line) if word == "--" or word in PROGRAMS), len(line))
    words, rest = line[:at], line[at + 1 if line[at : at + 1] == ["--"] else at :]
    own = [word for word in words if word != DRY_RUN]
    if not own:
        raise LaunchError(f"the launch config is missing; for example: {EXAMPLE}")
    if not rest:
        raise LaunchError(f"there is no job after the launch config; for example: {EXAMPLE}")
    if rest[0] not in PROGRAMS:
        raise LaunchError(f"{rest[0]!r} is not one of {', '.join(PROGRAMS)}; for example: {EXAMPLE}")
    if len(rest) < 2:
        raise LaunchError(f"{rest[0]} needs a config; for example: {EXAMPLE}")
    return DRY_RUN in words, own, Job(rest[0], tuple(rest[1:]))


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "lumbre.cli", "launch", *sys.argv[1:]])
