"""The check before anything is queued: each job's own dry run, for the number of processes it will have."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lumbre.world import EXPECTED_RUNS, environment_of_one

from .agent import cores
from .base import CheckError, Job, Run, Task


def check_all(
    jobs: Sequence[Job], grid: Mapping[str, Sequence[Any]], world_size: Callable[[Job], int]
) -> tuple[Task, ...]:
    """Return the chain's tasks, the grid laid over the last of them, each run read by its own program.

    The programs run in children with --dry-run, and what they have to say goes to stderr as it is. Raises
    CheckError when one refuses its job.
    """
    tasks: list[Task] = []
    for place, job in enumerate(jobs):
        expected = [str(run.folder) for task in tasks for run in task.runs]
        looked = partial(_checked, world_size=world_size, expected=expected)
        run = looked(job)
        runs = [run]
        if grid and place == len(jobs) - 1:
            variants = [job.with_overrides(_overrides(run.name, point)) for point in _points(grid)]
            with ThreadPoolExecutor(cores()) as pool:
                runs = list(pool.map(looked, variants))
        tasks.append(Task(run.name, tuple(runs)))
    return tuple(tasks)


def check(job: Job, world_size: int, expected: Sequence[str] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Return the job's resolved config, as the program itself reads it for `world_size` processes.

    `expected` are run folders that earlier jobs of the chain will have filled. Raises CheckError; with
    `quiet` it has what the program says, which goes to stderr else.
    """
    world = {
        "RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world_size),
        EXPECTED_RUNS: json.dumps(list(expected)),
    }
    asked = subprocess.run(
        [sys.executable, *job.command, "--dry-run"],
        env={**environment_of_one(), **world},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise CheckError(asked.stderr or f"lumbre {job.program}: refused with status {asked.returncode}")
    resolved = yaml.safe_load(asked.stdout)
    return resolved if isinstance(resolved, dict) else {}


def _checked(job: Job, world_size: Callable[[Job], int], expected: Sequence[str]) -> Run:
    resolved = check(job, world_size(job), expected)
    name = str(resolved["name"])
    batch = (resolved.get("train") or {}).get("global_batch_size")
    return Run(job, name, Path(str(resolved["runs_folder"])).absolute() / name, batch)


def _points(grid: Mapping[str, Sequence[Any]]) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Yield every combination of the grid's values."""
    for values in itertools.product(*grid.values()):
        yield tuple(zip(grid, values, strict=True))


def _overrides(name: str, point: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    words = [f"{key.rpartition('.')[2]}{value}" for key, value in point]
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words))
    pairs = [*point, ("name", f"{name}-{title}")]
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in pairs)
