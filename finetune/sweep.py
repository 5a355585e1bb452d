"""A W&B sweep from the same YAML: the grid's values as parameters, a run of this program for each."""

import shlex
from pathlib import Path
from typing import Any

import yaml

from lumbre.errors import ConfigError, Problem
from lumbre.files import write_text
from lumbre.tracking import WandbConfig

from .config import FinetuneConfig
from .run import read


def write_sweep(config: FinetuneConfig, source: str, file: Path) -> None:
    """Write what `wandb sweep FILE` takes; raises ConfigError where there is no grid or no W&B tracker."""
    trackers = [one for one in config.tracking if isinstance(one, WandbConfig)]
    problems = []
    if not config.grid:
        problems.append(Problem("grid", "is empty", "name the keys to vary and their values"))
    if not trackers:
        problems.append(Problem("tracking", "has no W&B tracker", "add {type: wandb}"))
    if problems:
        raise ConfigError(problems)
    task = read(config).task
    metric = config.selection.metric or task.metrics[0]
    # The agent names the run in the environment alone, so a shell puts it in the run folder's name.
    name = shlex.quote(f"{config.name}-")
    line = f'exec lumbre finetune {shlex.quote(source)} name={name}"$WANDB_RUN_ID" grid={{}} seeds=[] "$@"'
    tree: dict[str, Any] = {
        "name": config.name,
        "project": trackers[0].project,
        **({"entity": trackers[0].entity} if trackers[0].entity else {}),
        "method": "grid",
        "metric": {"name": f"eval/{metric}", "goal": "minimize" if metric == "loss" else "maximize"},
        "parameters": {key: {"values": values} for key, values in config.grid.items()},
        "command": ["${env}", "sh", "-c", line, "lumbre", "${args_no_hyphens}"],
    }
    write_text(file, yaml.safe_dump(tree, sort_keys=False))
