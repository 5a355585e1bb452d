"""`lumbre launch sweep LAUNCH_CONFIG [agents=N] -- PROGRAM CONFIG ...`: a grid as a W&B sweep, run by agents.

W&B's own client registers the sweep and is the agent; it runs in children, so that nothing here imports it.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lumbre.errors import ConfigError, ExitStatus, LaunchError, Problem

from . import records
from .agent import Command
from .attempt import attempt
from .base import Job, Launch, LauncherConfig, Run, Task
from .check import check, check_all
from .outcome import EXIT_FILE, say
from .signals import relayed_signals

AGENTS = re.compile(r"agents=(.*)")
REGISTERED = re.compile(r"wandb agent (\S+)\s*$", re.MULTILINE)
ANSWER_SECONDS = 40
"""How long W&B may take to register a sweep; its client tries again for minutes."""
PYTHON = "LUMBRE_PYTHON"
"""The interpreter of a sweep's agent, for the shell that starts its runs."""
UNREGISTERED = "ENTITY/PROJECT/SWEEP"


def sweep(
    config: LauncherConfig, jobs: Sequence[Job], agents: int, *, dry_run: bool
) -> tuple[Launch, dict[str, str]]:
    """Register the grid as a sweep; return the launch of its agents, and the file that was registered.

    A dry run registers nothing and leaves UNREGISTERED in the sweep's place. Raises ConfigError for a job
    that is no sweep, CheckError for a run of the grid that is refused, LaunchError where W&B takes none.
    """
    if len(jobs) != 1 or not jobs[0].is_training:
        raise LaunchError("a sweep has one job: pretrain CONFIG, or finetune CONFIG")
    job, world_size = jobs[0], config.build().world_size
    if (processes := world_size(job)) != 1:
        remedy = "give the launcher one process for each run"
        raise LaunchError(f"a sweep's agent starts runs of one process, not of {processes}; {remedy}")
    resolved = check(job, 1)
    grid = config.grid or resolved.get("grid") or {}
    tracker = _tracker(resolved, grid)
    if "grid" in resolved:
        job = job.with_overrides(("grid={}", "seeds=[]"))
    check_all([job], grid, world_size)
    run_name = str(resolved["name"])
    name = config.launch_name or f"{run_name}-sweep"
    folder = records.folder_of(name)
    tree = description(job, run_name, tracker, grid, resolved)
    files = {"sweep.yaml": yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)}
    path = UNREGISTERED
    if not dry_run:
        records.write_files(folder, files)
        path = register(folder / "sweep.yaml", tracker)
    names = [f"{name}-agent-{number}" for number in range(1, agents + 1)]
    runs = [Run(Job("launch", ("agent", path, str(folder / one))), one, folder / one) for one in names]
    return Launch(name, (Task(f"{name}-agent", tuple(runs)),), folder, Path.cwd()), files


def count_agents(words: Sequence[str]) -> tuple[int, list[str]]:
    """Return the N of agents=N, 1 where it is not given, and the other words; raises ConfigError."""
    agents, others = 1, []
    for word in words:
        if not (found := AGENTS.fullmatch(word)):
            others.append(word)
        elif not found[1].isdecimal() or (agents := int(found[1])) == 0:
            raise ConfigError([Problem("agents", f"{found[1]!r} is no number of agents", "write agents=4")])
    return agents, others


def _tracker(resolved: Mapping[str, Any], grid: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job's W&B tracker; raises ConfigError where there is none, or no grid."""
    trackers = [one for one in resolved.get("tracking") or [] if one.get("type") == "wandb"]
    problems = []
    if not grid:
        remedy = "name the keys to vary and their values: grid: {seed: [1, 2]}"
        problems.append(Problem("grid", "is empty, in the launch config as in the job's", remedy))
    if not trackers:
        remedy = "add tracking=[{type: wandb, project: NAME}]"
        problems.append(Problem("tracking", "the job has no W&B tracker, so that no sweep sees it", remedy))
    if problems:
        raise ConfigError(problems)
    tracker: dict[str, Any] = trackers[0]
    return tracker


def description(
    job: Job,
    name: str,
    tracker: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    resolved: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what `wandb sweep` takes."""
    # The agent names a run in the environment alone, so a shell puts it in the run folder's name.
    words = shlex.join(["-m", "lumbre.cli", job.program, *job.arguments])
    line = f'exec "${PYTHON}" {words} name={shlex.quote(name)}-"$WANDB_RUN_ID" "$@"'
    metric = (resolved.get("selection") or {}).get("metric") or "loss"
    return {
        "name": name,
        "project": tracker["project"],
        **({"entity": tracker["entity"]} if tracker.get("entity") else {}),
        "method": "grid",
        "metric": {"name": f"eval/{metric}", "goal": "minimize" if metric == "loss" else "maximize"},
        "parameters": {key: {"values": list(values)} for key, values in grid.items()},
        "command": ["${env}", "sh", "-c", line, "lumbre", "${args_no_hyphens}"],
    }


def register(file: Path, tracker: Mapping[str, Any]) -> str:
    """Have W&B's client register the sweep; return ENTITY/PROJECT/ID.

    Raises LaunchError with the client's own words, and what can be done without W&B.
    """
    entity = ["--entity", tracker["entity"]] if tracker.get("entity") else []
    line = [sys.executable, "-m", "wandb", "sweep", "--project", tracker["project"], *entity, str(file)]
    without = "set grid in the launch config and leave out the word sweep, which needs no W&B"
    later = f"or register {file} where there is a key and a network: `wandb sweep {shlex.quote(str(file))}`"
    try:
        asked = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        why = f"W&B does not answer within {ANSWER_SECONDS} s"
        raise LaunchError(f"the sweep is not registered: {why}; {without}; {later}") from error
    told = asked.stdout + asked.stderr
    if asked.returncode == 0 and (found := REGISTERED.search(told)):
        say(f"registered the sweep {found[1]}; `wandb agent {found[1]}` adds an agent by hand")
        return found[1]
    said = [line.strip() for line in told.splitlines() if line.strip()] or [f"status {asked.returncode}"]
    raise LaunchError(f"the sweep is not registered: {said[-1]}; {without}; {later}")


def agent_here(argv: Sequence[str]) -> int:
    """`lumbre launch agent SWEEP FOLDER`: be a sweep's agent, and record the end as a run does.

    Signals go on to the run, which saves; the runs of the sweep have run folders of their own.
    """
    path, folder = argv
    command = (sys.executable, "-m", "wandb", "agent", "--forward-signals", path)
    file = Path(folder) / EXIT_FILE
    with relayed_signals() as relay:
        status = attempt(Command(command, {PYTHON: sys.executable}), file.parent, relay).status
    reason = "done" if status == ExitStatus.DONE else f"wandb agent ended with {status}; its log says why"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        json.dumps({"status": status, "reason": reason, "rank": 0, "step": None}), encoding="utf-8"
    )
    return status
