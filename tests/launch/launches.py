"""Launches as the check would leave them, for tests of what launchers make of them."""

from pathlib import Path

from launch.base import Job, Launch, Run, Task

NASTY = 'it\'s "$(touch pwned)" `touch pwned` $HOME & %j, -x\nrm -rf x'


def run(name: str, *arguments: str, program: str = "pretrain", folder: str = "/data/runs") -> Run:
    return Run(Job(program, arguments), name, Path(folder) / name)


def launch(*runs: Run, name: str = "bert", directory: str = "/data") -> Launch:
    """Return a chain of tasks of one run each."""
    tasks = tuple(Task(one.name, (one,)) for one in runs)
    return Launch(name, tasks, Path(directory) / "launches" / name, Path(directory))


CHAIN = launch(
    run("bert", "bert.yaml", program="prepare"),
    run("bert", "bert.yaml", "train.steps=9"),
    run("Tuned (2)", "tune.yaml", f"note={NASTY}", program="finetune"),
)
